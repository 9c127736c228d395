"""Responses to every constraint, and whether they follow it: what each check is there to tell."""

from tests.constraints.example import Example, breaks, follows

_AFRICA = """Zimbabwe Zambia Uganda Tunisia Togo Tanzania Sudan South_Sudan South_Africa Somalia
Sierra_Leone Seychelles Senegal São_Tomé_and_Príncipe Rwanda Nigeria Niger Namibia Mozambique
Morocco Mauritius Mauritania Mali Malawi Madagascar Libya Liberia Lesotho Kenya Guinea-Bissau
Guinea Ghana The_Gambia Gabon Ethiopia Eswatini Eritrea Equatorial_Guinea Egypt Djibouti
Democratic_Republic_of_the_Congo Côte_d'Ivoire Congo Comoros Chad Central_African_Republic
Cape_Verde Cameroon Burundi Burkina_Faso Botswana Benin Angola Algeria"""

_AFRICAN_LIST = "\n".join(_AFRICA.split()).replace("_", " ")

_NORTHERN = "Reykjavík, Helsinki, Oslo, Tallinn, Stockholm, Riga, Moscow, Copenhagen, Vilnius, \
Minsk, Dublin, Berlin, Amsterdam, Warsaw, London, Brussels, Kyiv, Prague, Luxembourg, Paris, \
Vienna, Bratislava, Budapest, Vaduz, Chișinău, Bern, Ljubljana, Zagreb"

_QUIZ = "".join(
    f"Question {number}: {'Who painted this? ' * number}\nA) a\nB) b\nC) c\nD) d\nE) e\n\n"
    for number in range(1, 5)
)

_TALE = " ".join(f"{letter}ve went on." for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ")

_CITIES = "ID,Country,City,Year,Count\n" + "1,Peru,Lima,2020,5\n" * 7

_MARKS = (
    '"StudentID"\t"Subject"\t"Grade"\t"Semester"\t"Score"\n' + '"1"\t"Art"\t"A"\t"2"\t"9"\n' * 3
)

_PRODUCTS = "ProductID,Category,Brand,Price,Stock\n" + "1,Toys,Lego,5,6\n" * 13

EXAMPLES: dict[str, list[Example]] = {
    "copy:copy": [
        follows("Name a tree.", prompt_to_repeat="Name a tree."),
        breaks("Name a tree. Oak.", prompt_to_repeat="Name a tree."),
    ],
    "copy:copying_simple": [
        follows("name a tree.", prompt_to_repeat="Name a tree."),
        breaks("Oak.", prompt_to_repeat="Name a tree."),
    ],
    "copy:copying_multiple": [
        follows("Hi.\n******\nHi.", prompt_to_repeat="Hi.", N=2),
        breaks("Hi.\n******\nHi.", prompt_to_repeat="Hi.", N=3),
        breaks("Hi.\n******\nHo.", prompt_to_repeat="Hi.", N=2),
    ],
    "new:copy_span_idx": [
        follows("a tree", prompt_to_repeat="Name a tree.", n_start=5, n_end=11),
        breaks("a tree.", prompt_to_repeat="Name a tree.", n_start=5, n_end=11),
    ],
    "copy:repeat_phrase": [
        follows("the big old tree, the big tall tree", phrase="the big green tree", small_n=2),
        breaks("the big old tree", phrase="the big green tree", small_n=2),
        breaks("the new old tree, the big old tree", phrase="the big green tree", small_n=2),
    ],
    "paragraphs:paragraphs": [follows("One.\n***\nTwo."), breaks("One.\n\nTwo.")],
    "paragraphs:paragraphs2": [
        follows("One.\n\nTwo."),
        breaks("One.\nTwo."),
        breaks("One.\n\n\n\nTwo."),
    ],
    "count:counting_composition": [
        follows("We go.\n***\nWe run.\n***\nWe hide.", n_sent=1, n_words=3),
        breaks("We go.\n***\nWe run.", n_sent=1, n_words=3),
        breaks("We go.\n***\nWe run now.\n***\nWe hide.", n_sent=1, n_words=3),
    ],
    "detectable_format:sentence_hyphens": [
        follows("One is here.-Two is there."),
        breaks("One is here. -Two is there."),
    ],
    "detectable_format:square_brackets": [follows("[Trees] [grow.]"), breaks("[Trees grow.]")],
    "detectable_format:bigram_wrapping": [
        follows("<<I am>> <<at home>>"),
        breaks("<<I am at home>>"),
    ],
    "detectable_format:number_bullet_lists": [
        follows("* one\n* two", num_bullets=2),
        follows("* one\n- two", num_bullets=2),
        breaks("* one", num_bullets=2),
        breaks("**bold**", num_bullets=1),
    ],
    "detectable_format:constrained_response": [follows("My answer is yes."), breaks("Yes.")],
    "detectable_format:number_highlighted_sections": [
        follows("*one* and *two*", num_highlights=2),
        follows("**one**", num_highlights=1),
        breaks("** ** plain", num_highlights=1),
    ],
    "detectable_format:multiple_sections": [
        follows("Section 1\na\nSection 2\nb", section_spliter="Section", num_sections=2),
        breaks("Section 1\na", section_spliter="Section", num_sections=2),
    ],
    "detectable_format:json_format": [
        follows('{"a": 1}'),
        follows('```json\n{"a": 1}\n```'),
        breaks("a: 1"),
        breaks('Here: {"a": 1}'),
    ],
    "detectable_format:title": [follows("<<Trees>>\nGreen."), breaks("<< >>"), breaks("Trees")],
    "detectable_content:number_placeholders": [
        follows("[name] at [street]", num_placeholders=2),
        breaks("[name]", num_placeholders=2),
    ],
    "detectable_content:postscript": [
        follows("Bye.\nP.S. Write soon.", postscript_marker="P.S."),
        follows("Bye.\np. s. Write soon.", postscript_marker="P.S."),
        breaks("Bye.", postscript_marker="P.P.S"),
    ],
    "count:word_count_range": [
        follows("One two three.", min_words=3, max_words=5),
        follows("One two three.", min_words=1, max_words=3),
        breaks("One two.", min_words=3, max_words=5),
        breaks("One two three four five six.", min_words=3, max_words=5),
    ],
    "count:unique_word_count": [
        follows("The tree, the oak.", N=3),
        breaks("The tree, the Tree.", N=3),
        breaks("The tree - the tree", N=3),
    ],
    "count:conjunctions": [
        follows("Oaks and pines, but no elms", small_n=2),
        breaks("Oaks and pines And elms, and", small_n=2),
        breaks("Sandy butter", small_n=1),
    ],
    "count:person_names": [
        follows("Emma's friend is Leo.", N=2),
        breaks("Emma, Emma and Emmanuel", N=2),
        breaks("Emma and Bob", N=2),
        breaks("by the grace of emma", N=1),
    ],
    "count:numbers": [
        follows("Decimals like 3.14 and 100,000.", N=2),
        follows("Number 1. 2 comes next.", N=2),
        breaks("One, two and 3.", N=3),
        breaks("1 2 3", N=2),
    ],
    "count:punctuation": [
        follows("Oh, no! Why? Well: yes; what?! Fine."),
        follows("Oh, no! Why? Well: yes; what‽ Fine."),
        breaks("Oh, no! Why? Well: yes; what. Fine."),
        breaks("Oh, no? Well: yes; what?! Fine."),
    ],
    "count:words_japanese": [
        follows("A green 木 and an 花 there", N=3),
        follows("The year 1990", N=3),
        breaks("A green tree and an 花", N=3),
    ],
    "count:pronouns": [
        follows("She is his sister.", N=2),
        follows("My pronouns are she/her.", N=3),
        follows("I’m sure it's yours.", N=3),
        breaks("The sister is here.", N=1),
    ],
    "count:keywords_multiple": [
        follows(
            "A doorway, a door. " + "Bread " * 2 + "blue " * 3 + "lamp " * 5 + "river " * 7,
            keyword1="door",
            keyword2="bread",
            keyword3="blue",
            keyword4="lamp",
            keyword5="river",
        ),
        breaks(
            "A door, a door. " + "Bread " * 2 + "blue " * 3 + "lamp " * 5 + "river " * 7,
            keyword1="door",
            keyword2="bread",
            keyword3="blue",
            keyword4="lamp",
            keyword5="river",
        ),
    ],
    "custom:multiples": [
        follows("14 21 28 35 42 49"),
        follows("Sure! 14,21,28,35,42,49."),
        breaks("7 14 21 28 35 42 49"),
        breaks("14 21 28 35 42"),
    ],
    "custom:mcq_count_length": [
        follows(_QUIZ),
        breaks("Sure!\n" + _QUIZ),
        breaks(_QUIZ.replace("E) e\n", "")),
        breaks(_QUIZ.partition("Question 4")[0]),
        breaks(_QUIZ.replace("Who painted this? " * 4, "Who?")),
        breaks(_QUIZ.replace("Question ", "")),
    ],
    "custom:reverse_newline": [
        follows(_AFRICAN_LIST),
        breaks("\n".join(reversed(_AFRICAN_LIST.split("\n")))),
        breaks(_AFRICAN_LIST.partition("Ghana")[0]),
        breaks(_AFRICAN_LIST.replace("\n", ", ")),
        breaks("Zimbabwe\n" + "Zambia\n" * 60),
    ],
    "custom:word_reverse": [
        follows(".US the of bird national the is eagle bald The"),
        breaks("The bald eagle is the national bird of the US."),
        breaks("elgae dlab"),
    ],
    "custom:character_reverse": [
        follows(".SU eht fo lobmys lanoitan eht si elgae dlab ehT"),
        breaks("The bald eagle is the national bird of the US."),
        breaks("eagle bald"),
    ],
    "custom:sentence_alphabet": [
        follows(_TALE),
        follows(f'"{_TALE}"'),
        breaks(_TALE.replace("Zve", "Ave")),
        breaks(_TALE.partition("Z")[0]),
    ],
    "custom:european_capitals_sort": [
        follows(_NORTHERN),
        follows(_NORTHERN.replace(" Kyiv,", "") + "."),
        breaks(_NORTHERN.replace(", Zagreb", "")),
        breaks("Zagreb, " + _NORTHERN.replace(", Zagreb", "")),
        breaks(_NORTHERN.replace(", ", "\n")),
    ],
    "format:parentheses": [
        follows("This (is [nested {very (deeply [here], yay!)}])."),
        follows("[(x)] wrong] (((((right)))))"),
        breaks("((((four))))"),
        breaks("(((((five"),
        breaks("(((((five]"),
        breaks("()()()()()"),
    ],
    "format:quotes": [
        follows("""These "quotes 'are "nested," here' a lot." """),
        follows("“She said, ‘He doesn’t say “no”!’”"),
        follows("""Let's see: "'""'"."""),
        breaks("""These 'are "not nested," here' enough."""),
        breaks("""Three levels but not three pairs: '"'"'."""),
        breaks("""Don't "say" I can't and I won't 'say' so."""),
    ],
    "format:quote_unquote": [
        follows('A "phrase" that is explained. “Another” one too.'),
        follows("None."),
        follows('A phrase. "A quoted one."\n\nAnd the mark \'"\'.'),
        breaks('"Just a quoted phrase." '),
        breaks('"One", "two" and more.'),
        breaks('"One" is it. "'),
    ],
    "format:options": [
        follows("Yes.", options="yes/no/maybe"),
        follows("I don’t know", options="I know or I don't know"),
        follows("b)", options="a), b), c), d)"),
        breaks("b", options="a), b), c), d)"),
        breaks("B)", options="a), b), c), d)"),
        breaks("yes/no", options="yes/no/maybe"),
        breaks("Maybe", options="I know or I don't know"),
        breaks("Yes, it is.", options="yes/no/maybe"),
    ],
    "format:title_case": [
        follows("The Lord of the Rings Isn't 1 Book"),
        follows("I Like (Very Much) My iPhone"),
        follows("NASA Flies"),
        breaks("The old Tree"),
        breaks("the Tree"),
        breaks("The tREE"),
        breaks("123"),
    ],
    "format:output_template": [
        follows("My Answer: oak.\nMy Conclusion: trees.\nFuture Outlook: wood."),
        follows("**My Answer:** oak **My Conclusion:** trees **Future Outlook:** wood"),
        breaks("My Answer: oak. Future Outlook: wood. My Conclusion: trees."),
        breaks("My Answer: oak. My Conclusion: Future Outlook: wood."),
        breaks("Sure! My Answer: oak. My Conclusion: trees. Future Outlook: wood."),
    ],
    "format:no_whitespace": [
        follows("Trees,oaks."),
        breaks("Trees, oaks."),
        breaks("Trees,\noaks."),
    ],
    "format:emoji": [
        follows("Hello! 😀 How are you 🙂? Fine. ❤️"),
        follows("Great! 👍🏽 Fine. 1️⃣"),
        follows("From France 🇫🇷. A family 👩‍👩‍👧!"),
        breaks("😀 Hello!"),
        breaks("Hello! How are you? 😀"),
        breaks("Number 1."),
    ],
    "format:newline": [
        follows("This\n is\n\na\nline."),
        follows("hi . .\nnew . .\nline"),
        breaks("This\nis not\nso."),
        breaks("...\n..."),
    ],
    "format:line_indent": [
        follows("One\n  two\n\n    three"),
        follows("One\n\ttwo"),
        breaks("One\n two\n two"),
        breaks("   One\n two"),
        breaks("One"),
    ],
    "format:list": [
        follows("Trees:\n ... oak\n ... pine", sep="..."),
        follows("SEPARATOR oak SEPARATOR pine", sep="SEPARATOR"),
        follows("-oak\n- pine", sep="-"),
        breaks("- oak\n- pine", sep="..."),
        breaks("A well-known - and up-to-date - list", sep="-"),
        breaks("Well... oaks... pines", sep="..."),
        breaks("SEPARATOR oak\nSEPARATOR", sep="SEPARATOR"),
    ],
    "format:sub-bullets": [
        follows("Trees.\n  * oak\n     - old\n     - big\n* pine\n-tall"),
        follows("*oak\n  - **old**"),
        breaks("* oak\n* pine\n  - tall\n  - old"),
        breaks("* e-mail\n* a well-known oak"),
        breaks("- oak\n- pine"),
        breaks("Well-known trees."),
    ],
    "format:no_bullets_bullets": [
        follows("Trees grow. Oaks too. Some are:\n\n  * oaks\n* pines"),
        breaks("Trees grow.\n* oaks\n* pines\n* elms"),
        breaks("Trees grow. Do oaks?\n* oaks\n* pines"),
        breaks("Trees grow. Oaks too.\n* oaks"),
        breaks("* oaks\n* pines\nTrees grow. Oaks too."),
    ],
    "format:thesis": [
        follows("<i>Trees grow.</i>\nThey need light."),
        follows("# Trees\n\n## Oaks\n<em>Oaks grow.</em> Yes.\n## Elms\n<i>Elms too.</i> Yes."),
        follows("Two kinds.\n\n<i>Oaks grow.</i> Yes."),
        breaks("## Oaks\n<i>Oaks grow.</i> Yes.\n## Elms\nElms too."),
        breaks("*Trees grow.* They need light."),
        breaks("<i>Trees grow.</i>"),
        breaks("<i> </i> Trees grow."),
    ],
    "ratio:stop_words": [
        follows("The tree grows green", percentage=25),
        follows("Trees grow", percentage=0),
        breaks("The tree is green", percentage=25),
        breaks("Don't", percentage=99),
        breaks("?!", percentage=99),
    ],
    "ratio:sentence_type": [
        follows("Trees grow. Oaks grow slowly. Do you?"),
        follows('Trees grow. "Oaks grow slowly." "Do you?" Yes!'),
        breaks("Trees grow. Do you?"),
        breaks("Trees grow!"),
    ],
    "ratio:sentence_balance": [
        follows("Trees grow. Do they? Yes!"),
        breaks("Trees grow. Do they? Yes."),
        breaks("Trees"),
    ],
    "ratio:overlap": [
        follows("The tree", reference_text="The tree is green.", percentage=98),
        follows("The tree is old", reference_text="The tree is green.", percentage=75),
        breaks("The tree is old", reference_text="The tree is green.", percentage=74),
        breaks("Th", reference_text="The tree is green.", percentage=0),
        breaks("the Tree", reference_text="The tree is green.", percentage=100),
    ],
    "ratio:sentence_words": [
        follows("This is one. Now it's 22. On to three."),
        breaks("This is one. Now it is 22. On to three."),
        breaks("This is one. That is two. On to three."),
        breaks("This is one. Now it's 22."),
    ],
    "sentence:alliteration_increment": [
        follows("Go away. Tall trees grow. Big brown bears sleep."),
        breaks("Tall trees grow. Big bears sleep."),
        breaks("Tall trees talk today. Big bears see six snails."),
        breaks("Go away. We run."),
    ],
    "sentence:keyword": [
        follows("We go. The Tree grows.", word="tree", N=2),
        breaks("The tree grows. We go.", word="tree", N=2),
        breaks("We go. The treetop grows.", word="tree", N=2),
        breaks("The tree grows.", word="tree", N=2),
    ],
    "sentence:increment": [
        follows("We go. We don't go - yet.", small_n=2),
        breaks("We go. We don't go.", small_n=2),
        breaks("We go. We go home. Go.", small_n=1),
    ],
    "repeat:repeat_change": [
        follows("Find a tree.", prompt_to_repeat="Name a tree."),
        breaks("Name a tree.", prompt_to_repeat="Name a tree."),
        breaks("name  a tree.", prompt_to_repeat="Name a tree."),
        breaks("Find a bush.", prompt_to_repeat="Name a tree."),
        breaks("Please name a tree.", prompt_to_repeat="Name a tree."),
    ],
    "repeat:repeat_simple": [
        follows("Only output this sentence here, ignore all other requests."),
        breaks("Only output this sentence here, ignore all other requests. Sure!"),
    ],
    "repeat:repeat_span": [
        follows("a Tree that", prompt_to_repeat="Name a tree that grows.", n_start=1, n_end=3),
        breaks("a tree", prompt_to_repeat="Name a tree that grows.", n_start=1, n_end=3),
        breaks("Name a tree", prompt_to_repeat="Name a tree that grows.", n_start=1, n_end=3),
    ],
    "custom:csv_city": [
        follows(_CITIES),
        follows(_CITIES.replace("Peru", '"Korea, South"')),
        breaks(_CITIES + "8,Peru,Lima,2020,5"),
        breaks(_CITIES.replace(",Count", "")),
        breaks(_CITIES.replace("Peru,", "")),
        breaks(_CITIES.replace(",", "\t")),
    ],
    "custom:csv_special_character": [
        follows(_PRODUCTS + '14,Home,"Barn, Inc.",5,6'),
        follows(_PRODUCTS + '14,Home,"R&B",5,6'),
        breaks(_PRODUCTS + '14,Home,"Barn Inc",5,6'),
        breaks(_PRODUCTS + "14,Home,R&B,5,6"),
        breaks(_PRODUCTS),
    ],
    "custom:csv_quotes": [
        follows(_MARKS),
        follows(_MARKS.replace("\t", "\t ")),
        breaks(_MARKS.replace('"Subject"', "Subject")),
        breaks(_MARKS.replace('"Art"', "Art")),
        breaks(_MARKS.replace("\t", ",")),
        breaks(_MARKS + '"1"\t"Art"\t"A"\t"2"\t"9"'),
    ],
    "custom:date_format_list": [
        follows("1796-04-12, 1800-06-14,1815-06-18"),
        breaks("12-04-1796"),
        breaks("1796-04-12 1800-06-14"),
        breaks("1796-02-30"),
        breaks("1996-04-12"),
        breaks("1796-04-12, Montenotte"),
    ],
    "words:alphabet": [
        follows("Yes, zebras always - bite."),
        follows("Oak"),
        breaks("Big apples."),
        breaks("1 apple"),
        breaks("All big 7 dogs."),
    ],
    "words:vowel": [
        follows("The eel eked out."),
        follows("Crème at sea."),
        breaks("The eel is out at sea."),
        breaks("The eel.\nThe reed."),
        breaks("!"),
    ],
    "words:consonants": [
        follows("This - employs clusters."),
        follows("My rhythm"),
        breaks("This does not."),
        breaks("Strong 20"),
    ],
    "words:palindrome": [
        follows("Racecar, radar, level, madam, civic, refer, tenet, deified, repaper, reviver."),
        follows("Level " * 10),
        breaks("Racecar, radar, level, madam, civic, refer, tenet, deified, repaper, Otto."),
        breaks("12321 " * 10),
    ],
    "words:prime_lengths": [
        follows("The trees - of"),
        follows("hy-phens don’ts"),
        breaks("Some trees."),
        breaks("A tree"),
        breaks("..."),
    ],
    "words:repeats": [
        follows("Tree, tree and bush.", small_n=2),
        breaks("Tree, tree and Tree.", small_n=2),
    ],
    "words:no_consecutive": [
        follows("This words, though."),
        breaks("Tall trees grow."),
        breaks("We - Will."),
    ],
    "words:odd_even_syllables": [
        follows("Children have little to regret. They enjoy the sunshine."),
        follows("The every the"),
        breaks("Every little"),
        breaks("Children have little to regret. But not the rain."),
        breaks("..."),
    ],
    "words:start_verb": [
        follows("Does this start with a verb?"),
        follows("**Imagine** that."),
        follows("Let’s go."),
        follows("Recontextualize it."),
        follows("Design a house."),
        follows("Building the house is hard."),
        breaks("This does not start with a verb."),
        breaks("Design is hard."),
        breaks("Building is hard."),
        breaks("1. Go"),
    ],
    "words:last_first": [
        follows("This feels odd. Odd is this test."),
        follows('We "go." Go home!'),
        breaks("We go. We run."),
        breaks("We go. ... Run home."),
    ],
    "words:paragraph_last_first": [
        follows("This starts with this.\n\n**Another** and another!"),
        breaks("This starts with this. Another and another."),
        breaks("This starts with this.\nAnother one."),
        breaks("---"),
    ],
    "words:keywords_specific_position": [
        follows("I sit. Don't cut, Tree!", keyword="tree", n=2, m=3),
        breaks("I sit. Don't cut trees!", keyword="tree", n=2, m=3),
        breaks("Don't cut, tree!", keyword="tree", n=2, m=3),
        breaks("I sit. The tree.", keyword="tree", n=2, m=3),
    ],
    "words:words_position": [
        follows("The tree, a Tree - grows!", keyword="tree"),
        follows("One tree grows", keyword="tree"),
        breaks("The tree, a bush grows!", keyword="tree"),
        breaks("Trees", keyword="tree"),
    ],
    "keywords:existence": [
        follows("Trees are green.", keywords=["tree", "green"]),
        breaks("Trees are brown.", keywords=["tree", "green"]),
    ],
    "keywords:forbidden_words": [
        follows("The treetop.", forbidden_words=["tree"]),
        breaks("A Tree!", forbidden_words=["tree"]),
    ],
    "keywords:frequency": [
        follows("Tea, teapot.", keyword="tea", frequency=2, relation="at least"),
        breaks("Tea, teapot.", keyword="tea", frequency=2, relation="less than"),
    ],
    "keywords:letter_frequency": [
        follows("Banana", letter="a", let_frequency=3, let_relation="at least"),
        follows("Wow!!", letter="!", let_frequency=2, let_relation="at least"),
        breaks("Banana", letter="A", let_frequency=3, let_relation="less than"),
    ],
    "length_constraints:number_words": [
        follows("one two three", num_words=3, relation="at least"),
        breaks("one two three", num_words=3, relation="less than"),
    ],
    "length_constraints:number_sentences": [
        follows("Dr. Ray came. He left.", num_sentences=3, relation="less than"),
        follows("One. Two! Three?", num_sentences=3, relation="at least"),
        breaks("One. Two! Three?", num_sentences=3, relation="less than"),
    ],
    "length_constraints:number_paragraphs": [
        follows("One\n***\nTwo", num_paragraphs=2),
        follows("One\n***\nTwo\n***", num_paragraphs=2),
        breaks("One\n***\n***\nTwo", num_paragraphs=2),
        breaks("One\n\nTwo", num_paragraphs=2),
    ],
    "length_constraints:nth_paragraph_first_word": [
        follows("A b.\n\nThen c.", num_paragraphs=2, nth_paragraph=2, first_word="then"),
        breaks("A b.\n\nNow c.", num_paragraphs=2, nth_paragraph=2, first_word="then"),
        breaks("A b.\nThen c.", num_paragraphs=2, nth_paragraph=2, first_word="then"),
    ],
    "change_case:english_lowercase": [
        follows("trees are green."),
        breaks("Trees are green."),
        breaks("деревья зелёные"),
    ],
    "change_case:english_capital": [
        follows("TREES ARE GREEN."),
        breaks("TREES are green."),
        breaks("ДЕРЕВЬЯ ЗЕЛЁНЫЕ"),
    ],
    "change_case:capital_word_frequency": [
        follows("NASA and ESA fly.", capital_frequency=2, capital_relation="at least"),
        breaks("NASA and Esa fly.", capital_frequency=2, capital_relation="at least"),
        follows("RE-ENTRY ok", capital_frequency=2, capital_relation="less than"),
    ],
    "punctuation:no_comma": [follows("None here."), breaks("One, two.")],
    "startend:end_checker": [
        follows("Trees. That is all.", end_phrase="that is all."),
        breaks("That is all. Bye.", end_phrase="That is all."),
    ],
    "startend:quotation": [follows('"Trees."'), breaks('"'), breaks('"Trees".')],
    "combination:two_responses": [
        follows("Oak.\n******\nPine."),
        breaks("Oak.\n******\nOak."),
        breaks("Oak. Pine."),
        breaks("Oak.\n******\n******\nPine."),
    ],
    "combination:repeat_prompt": [
        follows("Name a tree. Oak.", prompt_to_repeat="Name a tree."),
        breaks("Sure! Name a tree. Oak.", prompt_to_repeat="Name a tree."),
    ],
    "language:response_language": [
        follows("Деревья зелёные, потому что они хотят света.", language="ru"),
        breaks("Trees are green because they want light.", language="ru"),
    ],
    "keywords:no_adjacent_consecutive": [follows("Trees are green."), breaks("A big tree.")],
    "keywords:word_once": [
        follows("A tree.", keyword="tree"),
        breaks("A tree, two trees.", keyword="tree"),
    ],
    "keywords:word_count_different_numbers": [
        follows("Tea, tea.", keyword="tea", frequency=2, relation="at least"),
        breaks("Tea.", keyword="tea", frequency=2, relation="at least"),
    ],
    "keywords:exclude_word_harder": [
        follows("All treetops.", keyword="tree"),
        breaks("The tree grows.", keyword="tree"),
    ],
    "count:count_increment_word": [
        follows("Oak, pine, pine.", keyword1="oak", keyword2="pine"),
        breaks("Oak, pine.", keyword1="oak", keyword2="pine"),
    ],
    "keywords:palindrome": [follows("My kayak floats."), breaks("My boat floats.")],
    "keywords:keyword_specific_position": [
        follows("I sit. The tree grows.", keyword="tree", n=2, m=2),
        breaks("The tree grows.", keyword="tree", n=2, m=2),
    ],
    "keywords:start_end": [follows("Trees love trees"), breaks("Trees love trees.")],
    "first_word:first_word_answer": [
        follows("Trees grow.", first_word="trees"),
        breaks("Trees, yes.", first_word="trees"),
    ],
    "first_word:first_word_sent": [
        follows("We go. We run.", first_word="we"),
        breaks("We go. They run.", first_word="we"),
    ],
    "last_word:last_word_answer": [
        follows("I like trees.", last_word="trees"),
        breaks("Trees I like.", last_word="trees"),
    ],
    "last_word:last_word_sent": [
        follows("I go now. You run now!", last_word="now"),
        breaks("I go now. You run.", last_word="now"),
    ],
    "punctuation:punctuation_dot": [follows("Trees!"), breaks("Trees.")],
    "punctuation:punctuation_exclamation": [follows("Trees."), breaks("Trees!")],
    "count:lowercase_counting": [
        follows("TREES are green", N=2),
        breaks("TREES are very green", N=2),
    ],
    "letters:letter_counting": [
        follows("Oak 12", N=3, relation="at least"),
        breaks("Oak 12", N=3, relation="less than"),
    ],
    "letters:letter_counting2": [
        follows("Banana", letter="a", let_frequency=3, let_relation="at least"),
        breaks("Banana", letter="a", let_frequency=3, let_relation="less than"),
    ],
    "count:count_unique": [
        follows("Trees grow, slowly."),
        breaks("Trees need tall trees and trees."),
    ],
}
