"""Which language a text is in: its dominant script, then the commonest function words.

IFEval uses `langdetect`, which draws random numbers and gives different answers from run to run on
short or mixed texts. This detector is deterministic and needs no data beyond the lists below. It
is made to say whether a whole response is in the asked language, not to identify a language from
few words: without evidence `is_english` accepts Latin text, as IFEval does when detection fails.
"""

import re
from collections import Counter
from functools import cache

from mgsrl.rewards.constraints.spec import CannotDecideError

_SCRIPTS: tuple[tuple[str, str], ...] = (
    ("latin", "A-Za-zÀ-ɏḀ-ỿ"),
    ("cyrillic", "Ѐ-ӿ"),
    ("greek", "Ͱ-Ͽ"),
    ("hebrew", "֐-׿"),
    ("arabic", "؀-ۿݐ-ݿ"),
    ("devanagari", "ऀ-ॿ"),
    ("bengali", "ঀ-৿"),
    ("gurmukhi", "਀-੿"),
    ("gujarati", "઀-૿"),
    ("tamil", "஀-௿"),
    ("telugu", "ఀ-౿"),
    ("kannada", "ಀ-೿"),
    ("malayalam", "ഀ-ൿ"),
    ("thai", "฀-๿"),
    ("hangul", "가-힣ᄀ-ᇿ"),
    ("kana", "぀-ヿ"),
    ("han", "一-鿿"),
)
_SCRIPT_PATTERNS = tuple((name, re.compile(f"[{chars}]")) for name, chars in _SCRIPTS)

_ONE_LANGUAGE = {
    "greek": "el",
    "hebrew": "he",
    "bengali": "bn",
    "gurmukhi": "pa",
    "gujarati": "gu",
    "tamil": "ta",
    "telugu": "te",
    "kannada": "kn",
    "malayalam": "ml",
    "thai": "th",
    "hangul": "ko",
    "kana": "ja",
    "han": "zh",
}

_WORDS: dict[str, dict[str, str]] = {
    "latin": {
        "en": "the of and to in a is that for it as was with be by on not he i this are or his "
        "from at which but have an they you were there can has will we my your their its "
        "our if would",
        "de": "der die und in den von zu das mit sich des auf für ist im dem nicht ein eine als "
        "auch es an werden aus er hat dass sie nach wird bei einer um am sind noch wie "
        "einem über ich",
        "fr": "de la le et les des en un du une que est pour qui dans a par plus pas au sur ne "
        "se ce il sont la avec ils nous vous cette ces mais ou où je aux été être son "
        "leur elle",
        "es": "de la que el en y a los se del las un por con no una su para es al lo como más o "
        "pero sus le ha me si sin sobre este ya entre cuando todo esta ser son también "
        "fue hay muy",
        "it": "di e il la che in a per un del è non con una i le si da dei nel della al sono "
        "come ma lo gli ha alla più anche dal se delle ci questo su ed o nella suo mi tra",
        "pt": "de a o que e do da em um para é com não uma os no se na por mais as dos como mas "
        "ao ele das à seu sua ou quando muito nos já eu também só pelo pela até isso são "
        "foi",
        "nl": "de van het een en in is dat op te zijn met voor niet aan er om ook als dan maar "
        "bij nog uit naar heeft ze hij door over wat je of wordt kan deze die worden geen",
        "sv": "och i att det som en på är av för med till den har de inte om ett han men var "
        "jag sig från vi så kan när år under också efter eller nu sin där vid mot ska",
        "da": "og i at det er en til af på som for med de den har ikke et var han fra vi jeg "
        "der om men sig også efter eller kan hun nu over da ved skal være blev",
        "no": "og i det er på som en til av for at med de har ikke den et var han fra vi jeg om "
        "men seg også etter eller kan hun nå over ved skal være ble",
        "fi": "ja on ei se että oli joka hän mutta ovat myös kun niin olla tai kuin sen ole "
        "mukaan jos nyt minä sinä voi vain hyvin sitä joten kanssa tämä ne he ovat",
        "pl": "i w na z do się nie to jest że o jak po co za od tak przez dla ale czy być tym "
        "są ich może już tylko które który która oraz jego przy było gdy ma pan",
        "cs": "a v se na je že s z do i to o ve k po za jako ale by pro jsem by byl od při jeho "
        "které který tak být nebo jsou jen už když až také podle není však",
        "hu": "a az és hogy nem is egy ez meg ha volt csak már van de mint még ki el vagy azt "
        "minden ezt után között nagyon lehet kell akkor úgy mert pedig",
        "ro": "și de în la a cu pe că nu o este un care din se mai pentru ce au ca sunt fi o "
        "lui am sau dar prin fost după cel cea acest această pot",
        "tr": "ve bir bu da de için ile o ne çok daha olarak gibi ama olan kadar en sonra ki "
        "değil var ise mi her veya ya ben sen biz olduğu olduğunu şey",
        "vi": "và của là có các một được cho trong không những với người để này đã khi về từ "
        "như tôi đó ra nhiều bạn vào thì cũng trên đến nó sẽ rất nhưng phải",
        "id": "yang dan di dengan untuk ini itu dari dalam tidak akan pada adalah ke oleh saya "
        "atau juga ada bisa kami anda mereka dapat telah sebagai karena kita lebih sudah",
        "tl": "ang ng sa na mga at ay ko ka para ito si hindi may kung niya mo siya rin ni nang "
        "lang kami ako aming dahil isang kanyang ating",
        "sw": "na ya wa kwa ni la katika za kuwa hii cha kama vya watu hiyo huo huu ambayo pia "
        "wake yake lakini sana hili kila au bila baada mimi wewe sisi yangu hakuna kwamba",
        "et": "ja on ei see et oli kui ta ka mis aga või oma seda siis ning nii veel kes ma "
        "olen pole välja üle mida tema juba kõik",
        "ca": "de la i el que a en les els un per amb del una no és al es se com més dels són "
        "aquest aquesta però o ha va seva seu molt també",
    },
    "cyrillic": {
        "ru": "и в не на я что он с как это по но они мы все она так его за был от у же вы бы "
        "из мне было для когда чтобы или если только быть есть их еще уже этот которые",
        "bg": "на и да се в от за е не с са по че това като ще до при но са си или със има му "
        "ги те още само може най след бе тя който която което ми той",
        "uk": "і в на не що з у та до як за від це для він про по вони ви але й я є ми так його "
        "або щоб які який яка коли бути був було їх має ще",
        "mk": "на и во да се од за е не со што ќе го ја ги како тоа сум но или има беше ми ти "
        "тој таа",
    },
    "arabic": {
        "ar": "في من على أن إلى عن هذا مع التي كان ما لا هذه الذي قد ذلك كل بين بعد أو هو هي لم "
        "كما إن حيث ثم عند أي يمكن و",
        "fa": "و در به از که این را با است برای آن یک خود تا کرد بر هم نیز شده می‌شود بود شود "
        "من ما هر یا اما باید می کند های ها",
        "ur": "کے کی میں ہے کا اور سے کو نے پر یہ ہیں کہ ایک اس ان بھی تھا کر جو نہیں تو ہو گیا "
        "لیے تھے کیا آپ ہم ہوں وہ اپنے",
    },
    "devanagari": {
        "hi": "के में है की से को और का ने पर यह हैं कि एक इस भी नहीं कर जो हो तो लिए था करने "
        "गया आप मैं हम अपने रहा वह साथ तक थे हूँ",
        "mr": "आहे आणि व या मध्ये ते की हे तर आहेत मी तो ही नाही होते होता केले करून त्या एक "
        "आपण असे त्यांच्या साठी हा पण काही आम्ही माझ्या झाले",
        "ne": "छ र को मा हो लागि पनि यो गर्न छन् यस गरेको भएको गर्ने गरी थियो तर उनले एक हुन्छ "
        "त्यो हामी म तपाईं मेरो हाम्रो सबै",
    },
}

_KNOWN = {code for group in _WORDS.values() for code in group} | set(_ONE_LANGUAGE.values())


@cache
def _lists(script: str) -> dict[str, frozenset[str]]:
    return {code: frozenset(words.split()) for code, words in _WORDS[script].items()}


def _scripts(text: str) -> Counter[str]:
    """Letters by script. Japanese mixes kana and Han: kana present makes Han letters Japanese."""
    counts = Counter({name: len(pattern.findall(text)) for name, pattern in _SCRIPT_PATTERNS})
    if counts["kana"] * 10 >= counts["han"]:
        counts["kana"] += counts.pop("han")
    return +counts


def _scores(text: str, script: str) -> dict[str, int]:
    """How many words of `text` are function words of each language of the script."""
    # Split at what is no letter rather than matching \\w: that leaves out the vowel signs of
    # Indic scripts and the joiner of Persian.
    words = Counter(re.split(r"[\s\d!-/:-@\[-`{-~।،؟«»“”„…–—]+", text.lower()))
    return {code: sum(words[word] for word in known) for code, known in _lists(script).items()}


def detect(text: str) -> str | None:
    """ISO 639-1 code of the most likely language; None without letters or evidence."""
    scripts = _scripts(text)
    if not scripts:
        return None
    script = scripts.most_common(1)[0][0]
    if script in _ONE_LANGUAGE:
        return _ONE_LANGUAGE[script]
    scores = _scores(text, script)
    best = max(scores, key=lambda code: scores[code])
    return best if scores[best] else None


def is_english(text: str) -> bool:
    """False when the letters are mostly not Latin or another language clearly fits better."""
    scripts = _scripts(text)
    if not scripts:
        return True
    if scripts.most_common(1)[0][0] != "latin":
        return False
    scores = _scores(text, "latin")
    return scores["en"] >= max(scores.values())


def matches_language(text: str, language: str) -> bool:
    """Whether `text` is in `language` (`pt`, `zh-cn`, ...).

    Raises CannotDecideError for a language the detector does not know.
    """
    code = language.lower().split("-")[0].split("_")[0]
    if code not in _KNOWN:
        raise CannotDecideError(f"no detector for language {language!r}")
    if code == "en":
        return is_english(text)
    return detect(text) == code
