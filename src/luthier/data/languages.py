"""Which language a text is in, by a vote of its function words and its letters. No model, some microseconds a
text.

    "das ist nicht der Fall"     das, ist, nicht, der: four votes for German, one for Danish and Portuguese
    "これは本です"                 kana are Japanese, whatever stands beside them

Points: a function word gives POINTS to every language that has it; a letter of a script that one language has
for itself gives a few. The language with the most points wins; `clear` says when a vote is worth anything:
enough points, enough of them per word, and far enough ahead of the next, which only words tell that the two
do not share. Close relatives (Czech and Slovak, Danish and Norwegian) therefore often give no clear vote in
short texts, and a language that is not listed gives few points and none either.

The lists are ours: the most frequent words that carry grammar, not topics. Languages that differ in spelling
alone count as one (SAME)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

POINTS = 12
"""Of a function word."""
FEWEST = 2 * POINTS
"""Points that a clear vote needs."""
PER_WORD = 0.12 * POINTS
"""And per word of the text: in running text every second to third word is a function word."""
AHEAD = 2 * POINTS
"""And more than the next one has."""
AHEAD_SHARE = 0.1
"""And that as a share of its own points."""
CHARACTERS = 400
"""The beginning of a text that votes."""

FUNCTION_WORDS = {
    "en": "the of and to is that for it as was with be by on not he are this at from his but they which or we "
    "you had their has have were her she there been will would what if when so can do how my your i an "
    "its these those some all any who why",
    "de": "der die das und ist nicht ein eine einen einem einer zu den dem des mit von auf für im sich auch "
    "es ich sie er wir ihr sind wird werden war hat haben als wie aus bei nach oder wenn dass kann nur "
    "noch aber über um zum zur durch was mein",
    "nl": "de het een en van is niet dat die in te op voor met zijn er aan ook als ik je we ze hij zij hebben "
    "heeft was werd worden wordt naar bij om uit maar nog kan dan door over wat of deze dit geen mijn "
    "jij hoe waar",
    "af": "die en van is nie wat het vir dat met sy sal ek jy ons hulle kan word aan deur ook maar hierdie "
    "hoe my op as by na",
    "sv": "och att det som en är på för med av inte den till jag om har ett de han var men så från vi kan när "
    "eller man hur ska också mig sig din vad detta efter under där mycket denna blir vid dessa andra "
    "alla flera utan mellan genom några antingen bara samt",
    "da": "og at det som en er på for med af ikke den til jeg om har et de han var men så fra vi kan når "
    "eller man hvordan skal også mig sig din hvad dette efter under der meget blev være denne bliver "
    "ved hvis disse andre alle flere uden mellem gennem nogle hvor enten sådan samt",
    "no": "og at det som en er på for med av ikke den til jeg om har et de han var men så fra vi kan når "
    "eller man hvordan skal også meg seg din hva dette etter under der mye ble være denne blir ved hvis "
    "disse andre alle flere uten mellom gjennom noen hvor enten bare slik samt",
    "is": "og að það sem er á í með af ekki til ég um hefur hann var en svo frá við getur þegar eða hvernig "
    "þú þetta eftir undir þar mjög eru hún ekkert þeir þær",
    "fr": "le la les de des du et est un une pas que qui dans pour sur avec ne il elle je nous vous ils au "
    "aux ce cette ces se son sa ses par plus ou mais comme si être avoir sont ont été était fait leur "
    "tout d l qu y",
    "es": "el la los las de del y es un una no que en para con por se su sus lo le al como más pero o si este "
    "esta estos son está fue ha han ser muy también cuando hay yo mi te me qué cómo sobre entre desde "
    "hasta donde",
    "pt": "o a os as de do da dos das e é um uma não que em no na nos nas para com por se seu sua ao à como "
    "mais mas ou este esta são está foi ser muito também quando eu meu você isso ele ela pelo pela até "
    "já",
    "gl": "o a os as de do da dos das e é un unha non que en no na nos nas para con por se seu súa ao á como "
    "máis pero ou este esta son está foi ser moi tamén cando eu meu iso el ela polo pola ata xa",
    "ca": "el la els les de del i és un una no que en per amb se seu seva al com més però o si aquest aquesta "
    "són està va ha han ser molt també quan hi jo meu li què sobre entre des fins on dels als",
    "it": "il lo la i gli le di del della dei e è un una non che in per con su si al alla come più ma o se "
    "questo questa sono sta fu ha hanno essere molto anche quando c io mio mi cosa dal dalla nel nella "
    "tra fino dove",
    "ro": "și de la în cu nu că este sunt un o pe pentru din care mai se ce ca sau dar a fost fi să lui prin "
    "până după cum are au eu el ea acest această al ai ale foarte când unde",
    "pl": "i w na z do nie się że jest to jak co po od za dla przez są był było ale oraz lub tak czy przy "
    "może tego tym który która które ich jego jej mnie ja my być już tylko jeśli",
    "cs": "a v na z do ne se že je to jak co po od za pro jsou byl bylo ale nebo tak při může toho tím který "
    "která které jejich jeho její mě já my být už jen pokud jsem není také když ve si k s lze pomocí "
    "další mezi více podle této tato tento tyto pouze bez své svůj mít má budou bude byla kde proto "
    "však všechny",
    "sk": "a v na z do nie sa že je to ako čo po od za pre sú bol bolo ale alebo tak pri môže toho tým ktorý "
    "ktorá ktoré ich jeho jej ma ja my byť už len ak som tiež keď vo si k s možno pomocou ďalšie medzi "
    "viac podľa tejto táto tento tieto iba bez svoje mať má budú bude bola kde preto či však všetky",
    "sl": "in v na z do ne se da je to kot kaj po od za so bil bilo ali tako pri lahko tega tem ki jih njegov "
    "njen me jaz mi biti že le če sem ni tudi ko pa",
    "hr": "i u na s do ne se da je to kao što po od za su bio bilo ali ili tako pri može toga tim koji koja "
    "koje njihov njegov njen me ja mi biti već samo ako sam nije također kad iz sve",
    "hu": "a az és hogy nem is egy van volt meg de csak ez azt ha már még mint vagy el ki be lesz lehet "
    "minden nagyon után alatt között ahol amikor ami aki én te ő mi nekem hogyan kell egyes illetve "
    "valamint például több ezek azok által szerint",
    "fi": "ja on ei se että oli hän mutta kun niin kuin tai myös joka ovat ole mitä jos vain nyt sen minä "
    "sinä me he tämä tuo mukaan kanssa olla voi ennen jälkeen sekä siitä missä miten joita joissa "
    "voidaan voit sisältää kuten jonka jota näitä tätä kaikki ilman kautta sitä niiden koska jo vielä "
    "milloin olen olet olemme eivät",
    "et": "ja on ei see et oli ta aga kui nii või ka kes mis ole ainult nüüd selle mina sina meie nad seda "
    "ning välja enne pärast koos olla võib siis kus kuidas üks saab kasutada kõik mille millest oma "
    "veel samuti ilma kaudu juba sest millal oled olen",
    "lv": "un ir nav ar no uz par ka bija tas tā es tu viņš viņa mēs bet vai arī kā ko kas pie pēc līdz tikai "
    "jau var lai šis šī kad kur būt ļoti",
    "lt": "ir yra ne su iš į apie kad buvo tai aš tu jis ji mes bet ar taip kaip ką kas prie po iki tik jau "
    "gali šis ši kai kur būti labai o nuo per už",
    "tr": "ve bir bu da de için ile çok ne var yok gibi daha en olan olarak ama ben sen o biz siz mi mı değil "
    "kadar sonra önce her ya veya nasıl neden bana şu olduğu tarafından",
    "id": "yang dan di ke dari untuk dengan tidak ini itu adalah pada ada akan saya anda kami mereka dia atau "
    "juga bisa karena oleh sebagai dalam apa lebih sudah telah bagaimana jika seperti kita maupun "
    "tersebut namun sangat dapat hanya lainnya serta beberapa secara kepada bahwa",
    "ms": "yang dan di ke dari untuk dengan tidak ini itu ialah pada ada akan saya anda kami mereka dia atau "
    "juga boleh kerana oleh sebagai dalam apa lebih sudah telah bagaimana jika seperti kita kepada "
    "daripada hendaklah tersebut namun sangat dapat hanya lain serta beberapa secara bahawa",
    "tl": "ang ng sa mga na ay at hindi ito ko mo siya kami sila para kung ano may mula ni si nang pero o din "
    "rin lang ba",
    "vi": "của và là không có được những một cho trong với các này đó người đã sẽ tôi bạn để khi từ cũng như "
    "nhưng hay nếu vì về thế nào gì đến ra vào rất",
    "sw": "na ya wa kwa ni za la katika kuwa hii huo hiyo si yake wake ambayo lakini au kama mimi wewe yeye "
    "sisi kutoka hadi pia sana",
    "sq": "dhe të në një që është për me nga nuk i e së ka më por ose si ishte janë do kjo ky unë ti ai ajo "
    "ne ata shumë kur",
    "eu": "eta da ez bat izan dira du dute zen baina ere edo hau hori hura ni zu gu haiek nola noiz non zer "
    "oso bezala arte",
    "ru": "и в на не что с по как это он она они мы вы я то но за из у к от для а или так же бы был была было "
    "были есть его её их если уже только все при до когда где который которая которые этот эта эти "
    "также может можно чтобы является более между во со",
    "uk": "і в на не що з по як це він вона вони ми ви я то але за із у до від для а або так же б був була "
    "було були є його її їх якщо вже тільки все при коли де та й який яка які цей ця ці також може "
    "можна щоб більш між зі лише",
    "be": "і ў на не што з па як гэта ён яна яны мы вы я то але за у да ад для а або так жа быў была было "
    "былі ёсць яго яе іх калі ужо толькі усе пры дзе які якая якія гэты гэтая гэтыя таксама можа можна "
    "каб больш паміж",
    "bg": "и в на не че с по като това той тя те ние вие аз но за от у до а или така бе беше са е го ги си "
    "ако вече само всички при кога къде се ще да има който която които този тази тези също може повече "
    "между във със",
    "sr": "и у на не да с по као то он она они ми ви ја али за из од до а или тако би био била је су га их се "
    "ако већ само све при када где што ће који која које овај ова ово може више између са ка којом "
    "којима свих",
    "mk": "и во на не дека со по како тоа тој таа тие ние вие јас но за од у до а или така би беше се е го ги "
    "си ако веќе само сите при кога каде што ќе да има кој која кои овој оваа овие исто може повеќе "
    "помеѓу",
    "ar": "في من على إلى أن هذا هذه التي الذي لا ما كان كانت هو هي مع عن أو ثم قد لم لن كل بعد قبل بين كما "
    "إذا حتى ذلك يكون أنا أنت هل كيف",
    "fa": "در به از که این را با است برای آن یک تا بر هم می شود شد بود کرد خود ما من تو او آنها یا اما اگر "
    "باید نیز هر چه کند دارد های",
    "ur": "کے کی کا میں ہے اور سے کو پر نے یہ وہ کہ ایک ہیں بھی تھا تھی کر ہو اس ان جو تو نہیں ہم آپ میری لیے "
    "تک گیا کیا",
    "hi": "के की का में है और से को पर ने यह वह कि एक हैं भी था थी कर हो इस उन जो तो नहीं हम आप मैं लिए तक गया क्या",
    "mr": "आणि आहे या ते मध्ये हे तो ती की एक आहेत ही होते होता करून हो नाही मी तू आम्ही तुम्ही साठी पर्यंत काय च्या चा ची",
    "ne": "र को मा छ हो ले यो त्यो कि एक छन् पनि थियो गर्न हुन् लाई बाट हामी तपाईं म लागि सम्म के भने छैन गरेको",
}
"""By ISO 639-1 code."""

SCRIPTS = (
    (0x0370, 0x03FF, "el", 2), (0x0530, 0x058F, "hy", 2), (0x0590, 0x05FF, "he", 2), (0x0980, 0x09FF, "bn", 2),
    (0x0A00, 0x0A7F, "pa", 2), (0x0A80, 0x0AFF, "gu", 2), (0x0B80, 0x0BFF, "ta", 2), (0x0C00, 0x0C7F, "te", 2),
    (0x0C80, 0x0CFF, "kn", 2), (0x0D00, 0x0D7F, "ml", 2), (0x0D80, 0x0DFF, "si", 2), (0x0E00, 0x0E7F, "th", 2),
    (0x0E80, 0x0EFF, "lo", 2), (0x0F00, 0x0FFF, "bo", 2), (0x1000, 0x109F, "my", 2), (0x10A0, 0x10FF, "ka", 2),
    (0x1200, 0x137F, "am", 2), (0x1780, 0x17FF, "km", 2), (0x3041, 0x30FF, "ja", 6), (0x3400, 0x4DBF, "zh", 6),
    (0x4E00, 0x9FFF, "zh", 6), (0xAC00, 0xD7A3, "ko", 6), (0x20000, 0x323AF, "zh", 6),
)  # fmt: skip
"""(first character, last, the language that has it nearly for itself, points of a letter). Han in a text with
kana is Japanese."""
KANA = 0.05
"""The share of kana among kana and Han from which on a text is Japanese."""

SAME = {"hr": ("bs", "sr", "sh"), "no": ("nb", "nn"), "zh": ("yue", "wuu"), "bn": ("as", "bpy")}
"""What a vote for a language stands for too."""

NAMES = {
    "en": "English", "de": "German", "nl": "Dutch", "af": "Afrikaans", "sv": "Swedish", "da": "Danish", "no": "Norwegian",
    "is": "Icelandic", "fr": "French", "es": "Spanish", "pt": "Portuguese", "gl": "Galician", "ca": "Catalan", "it": "Italian",
    "ro": "Romanian", "pl": "Polish", "cs": "Czech", "sk": "Slovak", "sl": "Slovenian", "hr": "Croatian, Bosnian or Serbian",
    "hu": "Hungarian", "fi": "Finnish", "et": "Estonian", "lv": "Latvian", "lt": "Lithuanian", "tr": "Turkish",
    "id": "Indonesian", "ms": "Malay", "tl": "Tagalog", "vi": "Vietnamese", "sw": "Swahili", "sq": "Albanian", "eu": "Basque",
    "ru": "Russian", "uk": "Ukrainian", "be": "Belarusian", "bg": "Bulgarian", "sr": "Serbian", "mk": "Macedonian",
    "ar": "Arabic", "fa": "Persian", "ur": "Urdu", "hi": "Hindi", "mr": "Marathi", "ne": "Nepali", "el": "Greek",
    "hy": "Armenian", "he": "Hebrew", "bn": "Bengali", "pa": "Punjabi", "gu": "Gujarati", "ta": "Tamil", "te": "Telugu",
    "kn": "Kannada", "ml": "Malayalam", "si": "Sinhala", "th": "Thai", "lo": "Lao", "bo": "Tibetan", "my": "Burmese",
    "ka": "Georgian", "am": "Amharic", "km": "Khmer", "ja": "Japanese", "zh": "Chinese", "ko": "Korean",
}  # fmt: skip

FASTTEXT = (
    "af als am an ar arz as ast av az azb ba bar bcl be bg bh bn bo bpy br bs bxr ca cbk ce ceb ckb co cs cv cy da de diq dsb dty "
    "dv el eml en eo es et eu fa fi fr frr fy ga gd gl gn gom gu gv he hi hif hr hsb ht hu hy ia id ie ilo io is it ja jbo jv ka kk "
    "km kn ko krc ku kv kw ky la lb lez li lmo lo lrc lt lv mai mg mhr min mk ml mn mr mrj ms mt mwl my myv mzn nah nap nds ne new "
    "nl nn no oc or os pa pam pfl pl pms pnb ps pt qu rm ro ru rue sa sah sc scn sco sd sh si sk sl so sq sr su sv sw ta te tg th "
    "tk tl tr tt tyv ug uk ur uz vec vep vi vls vo wa war wuu xal xmf yi yo yue zh"
)
"""The languages of fastText's lid.176 (Joulin et al. 2016), which rules/language asks where the vote is not
clear."""

LANGUAGES = tuple(dict.fromkeys([*FUNCTION_WORDS, *(code for _, _, code, _ in SCRIPTS)]))
"""All that can be voted for, in the order of columns [L]."""
KNOWN = tuple(sorted({*LANGUAGES, *FASTTEXT.split(), *(code for codes in SAME.values() for code in codes)}))


@dataclass(frozen=True)
class Vote:
    """Of R texts: the points of every language, whole numbers [R, L], and how many words they had [R]."""

    points: np.ndarray
    words: np.ndarray

    def winner(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(column of the language with the most points, how sure that is from 0 to 1, whether it is clear),
        [R] each.

        Sure: n / (n + 1) where it is n function words ahead of the next.
        """
        import numpy as np

        ordered = np.partition(self.points, -2, axis=1)
        most, ahead = ordered[:, -1], ordered[:, -1] - ordered[:, -2]
        clear = (most >= FEWEST) & (most >= PER_WORD * self.words)
        clear &= (ahead >= AHEAD) & (ahead >= AHEAD_SHARE * most)
        return self.points.argmax(axis=1), ahead / (ahead + POINTS), clear


def vote(texts: pl.Series, into: np.ndarray, rows: int) -> Vote:
    """The vote of T texts, added up by the row that each belongs to: `into` [T], R = `rows`."""
    import numpy as np
    import polars as pl

    start = texts.str.slice(0, CHARACTERS)
    found = pl.DataFrame(
        {
            "row": into.astype(np.int64),
            "word": start.str.to_lowercase().str.extract_all(r"[\p{L}\p{M}\p{N}]+"),
        }
    )
    words = np.bincount(into, weights=found["word"].list.len().to_numpy(), minlength=rows).astype(np.int64)
    found = found.explode("word").join(_votes(), on="word", how="inner")
    cell = found["row"].to_numpy() * len(LANGUAGES) + found["language"].to_numpy()
    points = np.bincount(cell, weights=found["points"].to_numpy(), minlength=rows * len(LANGUAGES))
    points = points.astype(np.int64).reshape(rows, len(LANGUAGES))
    _add_letters(points, start, into)
    return Vote(points, words)


def detect(text: str) -> str | None:
    """The language of one text, None where the vote is not clear.

    >>> detect("das ist nicht der Fall"), detect("これは本です"), detect("42")
    ('de', 'ja', None)
    """
    import numpy as np
    import polars as pl

    best, _, clear = vote(pl.Series([text]), np.zeros(1, np.int64), 1).winner()
    return LANGUAGES[int(best[0])] if clear[0] else None


def stands_for(code: str) -> Sequence[str]:
    return (code, *SAME.get(code, ()))


def name(code: str) -> str:
    return NAMES.get(code, code)


@cache
def _votes() -> pl.DataFrame:
    """word, language (a column of points), points."""
    import polars as pl

    lines = [
        (word, LANGUAGES.index(language), POINTS)
        for language, words in FUNCTION_WORDS.items()
        for word in dict.fromkeys(words.split())
    ]
    return pl.DataFrame(lines, {"word": pl.String, "language": pl.Int64, "points": pl.Int64}, orient="row")


def _add_letters(points: np.ndarray, texts: pl.Series, into: np.ndarray) -> None:
    """Points of scripts."""
    import numpy as np

    other = np.flatnonzero(texts.str.contains(r"[^\x00-\x{36f}]").to_numpy())
    if not len(other):
        return
    strings = texts.gather(other).to_list()
    letters = np.frombuffer("".join(strings).encode("utf-32-le"), np.uint32)
    row = np.repeat(into[other], [len(text) for text in strings])
    scripts = sorted(SCRIPTS)
    place = np.searchsorted([first for first, *_ in scripts], letters, side="right") - 1
    inside = (place >= 0) & (letters <= np.array([last for _, last, *_ in scripts])[place])
    column = np.array([LANGUAGES.index(language) for *_, language, _ in scripts])[place[inside]]
    weight = np.array([n for *_, n in scripts])[place[inside]]
    np.add.at(points, (row[inside], column), weight)
    japanese, chinese = LANGUAGES.index("ja"), LANGUAGES.index("zh")
    both = points[:, japanese] + points[:, chinese]
    is_japanese = (points[:, japanese] > 0) & (points[:, japanese] >= KANA * both)
    points[is_japanese, japanese] = both[is_japanese]
    points[is_japanese, chinese] = 0
