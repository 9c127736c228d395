"""Responses on which the released checkers decide otherwise than training, with their verdict."""

from mgsrl.constraints.official.custom import _CAPITALS
from tests.constraints.example import Example, breaks, follows

_CITIES = "ID,Country,City,Year,Count\n" + "1,Peru,Lima,2020,5\n" * 7

_COUNTRIES = [f"Z{number:02}" for number in range(60)][::-1]

_MARKS = '"StudentID"\t"Subject"\t"Grade"\t"Semester"\t"Score"' + '\n"1"\t"Art"\t"A"\t"2"\t"9"' * 3

_PRODUCTS = "ProductID,Category,Brand,Price,Stock\n" + "1,Toys,Lego,5,6\n" * 13

_QUIZ = "".join(
    f"Question {number}: {'Who painted this? ' * number}\nA. a\nB. b\nC. c\nD. d\nE. e\n\n"
    for number in range(1, 5)
)

_TALE = " ".join(f"{letter}ve went on." for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ")

EXAMPLES: dict[str, list[Example]] = {
    "count:unique_word_count": [follows("The tree - the tree", N=3), follows("oak “oak”", N=2)],
    "count:conjunctions": [follows("Oaks and pines And elms, and, yes", small_n=3)],
    "count:person_names": [follows("Emma and Leon", N=2)],
    "count:punctuation": [breaks("‽ Oh, well: yes; what?!.")],
    "count:words_japanese": [breaks("A green — and", N=3), breaks("A green ｱ and", N=3)],
    "count:pronouns": [
        breaks("Those who know it all", N=2),
        breaks("He's here.", N=1),
        follows("The U.S. grows", N=1),
    ],
    "ratio:stop_words": [breaks("the " * 7 + "tree " * 18, percentage=28)],
    "ratio:sentence_type": [
        follows("Trees grow!"),
        breaks("Trees?! Trees grow. Oaks too. Do you?"),
    ],
    "ratio:sentence_balance": [follows("Trees"), breaks("Trees?! Trees grow. Do they?")],
    "ratio:sentence_words": [follows("This is one. That is two. Then is six.")],
    "custom:mcq_count_length": [
        breaks(_QUIZ.replace("A. ", "A: ")),
        follows(_QUIZ.replace("A. ", "A| ")),
    ],
    "custom:reverse_newline": [follows("Zimbabwe\n" + "\n".join(_COUNTRIES).replace("Z", "Y"))],
    "custom:word_reverse": [
        follows("Eagles bald"),
        breaks("The eagle baldly"),
        breaks("An eagle bald—yes"),
    ],
    "custom:sentence_alphabet": [breaks(f'"{_TALE}"')],
    "custom:european_capitals_sort": [
        breaks(_CAPITALS + "."),
        breaks(_CAPITALS.replace("Prague", "Kyiv, Prague")),
    ],
    "custom:csv_city": [breaks(_CITIES.replace(",", ", ")), breaks(_CITIES + "\n")],
    "custom:csv_special_character": [
        follows(_PRODUCTS.replace("1,Toys", '1,"T&s"', 1) + "14,Home")
    ],
    "custom:csv_quotes": [breaks("\n" + _MARKS)],
    "custom:date_format_list": [follows("1800-00-00, 1801-02-29")],
    "count:keywords_multiple": [
        follows(
            "A door. " + "Breads " * 2 + "blue " * 3 + "lamp " * 5 + "river " * 7,
            keyword1="door",
            keyword2="bread",
            keyword3="blue",
            keyword4="lamp",
            keyword5="river",
        )
    ],
    "format:quotes": [
        breaks("“She said, ‘He doesn’t say “no”!’”"),
        follows("""He says "I don't "go" and can't" now."""),
    ],
    "format:quote_unquote": [follows('"One", "two" and more.'), follows('"One" 1 "two" it is')],
    "format:options": [
        breaks("formal", options="formal, informal"),
        breaks("b)\n", options="a), b), c)"),
    ],
    "format:title_case": [breaks("The Lord of the Rings"), follows("Vitamin c"), follows("123")],
    "format:output_template": [follows("Sure! Future Outlook: My Conclusion: My Answer: oak")],
    "format:emoji": [breaks("From France 🇫🇷."), breaks("Great! 1️⃣")],
    "format:newline": [breaks("This\n \nline"), follows("well—known")],
    "format:line_indent": [follows("One"), breaks("One\n\n\n two")],
    "format:list": [follows("A well-known - and up-to-date - list", sep="-")],
    "format:sub-bullets": [
        follows("* e-mail\n* a well-known oak"),
        follows("Trees."),
        breaks("* **oak**\n - a"),
    ],
    "format:no_bullets_bullets": [
        follows("Trees grow. Do oaks?\n* oaks\n* pines"),
        breaks("Trees grow. Oaks too.\n* oaks\n\n* pines"),
    ],
    "format:thesis": [
        follows("## Oaks\n<i>Oaks grow.</i> Yes.\n## Elms\nElms too."),
        follows("Well, <i>trees</i>!"),
    ],
    "change_case:english_capital": [
        breaks("HELLO WORLD"),
        breaks("ROCKY, GASEOUS, ICY, DISTANT PLANETS."),
    ],
    "change_case:english_lowercase": [breaks("trees are green.")],
    "language:response_language": [breaks("今天天气很好，我们去公园散步吧。", language="zh")],
    "keywords:existence": [
        breaks("1+1 is 2", keywords=["1+1"]),
        follows("a cat", keywords=["c.t"]),
    ],
    "keywords:forbidden_words": [breaks("a nonstop bus", forbidden_words=["no.st.p"])],
    "keywords:frequency": [follows("cat cut", keyword="c.t", frequency=2, relation="at least")],
    "keywords:letter_frequency": [
        breaks("######", letter="#", let_frequency=4, let_relation="at least"),
        follows("######", letter="#", let_frequency=4, let_relation="less than"),
    ],
    "detectable_format:multiple_sections": [
        follows("S-c 1\na\nSec 2", section_spliter="S.c", num_sections=2)
    ],
    "detectable_content:postscript": [follows("Bye. p-p-s- Write.", postscript_marker="P.P.S.")],
    "words:alphabet": [breaks("Apples — bananas"), follows("Apples–oaks be")],
    "words:vowel": [follows("Où né à li"), follows("!")],
    "words:consonants": [breaks("This - employs clusters.")],
    "words:palindrome": [follows("12321 " * 10)],
    "words:prime_lengths": [follows("..."), breaks("The trees — of")],
    "words:repeats": [follows("Tree, “tree” and tree.", small_n=2)],
    "words:no_consecutive": [follows("Tall “trees” grow.")],
    "words:odd_even_syllables": [follows("..."), breaks("A “"), breaks("A café")],
    "words:start_verb": [breaks("**Imagine** that."), breaks("Explore the world.")],
    "words:last_first": [breaks("We go “home”. Home we go.")],
    "words:paragraph_last_first": [breaks("This, starts with this."), follows("---")],
    "words:keywords_specific_position": [
        breaks("I sit. Don't cut, Tree!", keyword="tree", n=2, m=3),
        follows("I sit. Do, tree!", keyword="tree", n=2, m=3),
    ],
    "words:words_position": [
        breaks("One tree, two tree three.", keyword="tree"),
        follows("The tree and a tree.", keyword="tree"),
    ],
    "sentence:alliteration_increment": [follows("Tall trees. Big bears see six.")],
    "sentence:keyword": [follows("We go. The treetop grows.", word="tree", N=2)],
    "sentence:increment": [breaks("We go. We don't go — yet.", small_n=2)],
    "repeat:repeat_change": [follows("name  a tree.", prompt_to_repeat="Name a tree.")],
    "repeat:repeat_span": [
        follows("a tree", prompt_to_repeat="Name a tree that grows.", n_start=1, n_end=3),
        breaks("Name a tree", prompt_to_repeat="Name a tree that grows.", n_start=0, n_end=2),
    ],
}
