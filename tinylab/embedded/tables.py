"""Facts, names and words that the corpora are made of.

Every answer is a common word that is one token, with its leading space, in GPT-2's vocabulary as well as in
the embedded tokenizer. Countries whose capital is disputed, or written in two words, are left out.
"""

from typing import Final


def _columns(table: str) -> tuple[tuple[str, ...], ...]:
    """Return the rows of a table written as lines of words."""
    return tuple(tuple(line.split()) for line in table.strip().splitlines())


COUNTRIES: Final = _columns("""
    France      Paris       French      Europe
    Italy       Rome        Italian     Europe
    Spain       Madrid      Spanish     Europe
    Germany     Berlin      German      Europe
    Japan       Tokyo       Japanese    Asia
    Russia      Moscow      Russian     -
    China       Beijing     Chinese     Asia
    England     London      English     Europe
    Greece      Athens      Greek       Europe
    Egypt       Cairo       Arabic      Africa
    Poland      Warsaw      Polish      Europe
    Austria     Vienna      German      Europe
    Ireland     Dublin      -           Europe
    Sweden      Stockholm   Swedish     Europe
    Norway      Oslo        Norwegian   Europe
    Cuba        Havana      Spanish     -
    Iran        Tehran      Persian     Asia
    Iraq        Baghdad     Arabic      Asia
    Syria       Damascus    Arabic      Asia
    Lebanon     Beirut      Arabic      Asia
    Turkey      Ankara      Turkish     -
    Belgium     Brussels    -           Europe
    Portugal    Lisbon      Portuguese  Europe
    Hungary     Budapest    Hungarian   Europe
    Afghanistan Kabul       -           Asia
    Canada      Ottawa      -           -
    Thailand    Bangkok     Thai        Asia
    Denmark     Copenhagen  Danish      Europe
    Finland     Helsinki    Finnish     Europe
    Chile       Santiago    Spanish     -
    Peru        Lima        Spanish     -
    Libya       Tripoli     Arabic      Africa
    Pakistan    Islamabad   -           Asia
    Scotland    Edinburgh   English     Europe
    Wales       Cardiff     -           Europe
""")
"""Country, capital, main language, continent; ``-`` where there is no single good answer."""


def _known(column: int) -> tuple[tuple[str, str], ...]:
    """Return (country, fact) for the countries that have a fact in a column of ``COUNTRIES``."""
    return tuple((row[0], row[column]) for row in COUNTRIES if row[column] != "-")


FACTS: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    "capital": _known(1),
    "language": _known(2),
    "continent": _known(3),
    "country": tuple((capital, country) for country, capital, *_ in COUNTRIES),
}
"""Relation to (subject, answer) pairs; ``country`` goes from a capital to its country."""

OPPOSITES: Final = _columns("""
    open     closed    door window gate shop box
    hot      cold      water soup room coffee stone
    full     empty     glass bottle bag bus box
    wet      dry       floor shirt road grass towel
    clean    dirty     kitchen plate shirt car floor
    alive    dead      fish bird king horse tree
    awake    asleep    baby child dog guard cat
    big      small     house dog city ship garden
    fast     slow      train car horse ship bus
    new      old       phone bike bridge school car
    rich     poor      king farmer man woman doctor
    happy    sad       child woman boy girl teacher
    strong   weak      horse soldier team rope bridge
    heavy    light     bag box stone table chair
    bright   dark      room sky lamp street kitchen
    hard     soft      bed bread chair ground pillow
    tall     short     tree man tower girl boy
    loud     quiet     crowd street song engine child
    thick    thin      book wall paper coat rope
    high     low       price wall bridge tower tide
    true     false     story claim answer report news
    safe     dangerous road bridge city river street
    cheap    expensive phone ticket house shirt hotel
    easy     difficult test game lesson question job
    early    late      train bus guest doctor letter
    wide     narrow    road river street bridge door
    guilty   innocent  man woman driver boy soldier
    healthy  sick      child dog horse tree baby
    polite   rude      guest boy girl driver teacher
    calm     angry     crowd man woman teacher king
""")
"""An adjective, its opposite, then nouns that both go with; no adjective stands in two rows."""

AFFIRMERS: Final = tuple("now still really certainly clearly".split())
"""Words that stand in the place of "not" and leave the sentence affirmed."""

PROPERTIES: Final = tuple(
    "happy sad brave lazy kind cruel tall short rich poor strong weak quiet loud hungry angry young old "
    "late early tired busy alone ready sick safe famous married".split()
)

NAMES: Final = tuple(
    "Mary John Tom James Robert Michael William David Richard Charles Joseph Thomas Daniel Matthew Mark "
    "Paul Andrew Kevin Brian George Edward Jason Ryan Jacob Eric Peter Simon Scott Frank Samuel Patrick "
    "Jack Henry Martin Adam Susan Jessica Sarah Karen Lisa Emily Michelle Amanda Rebecca Laura Helen Amy "
    "Anna Angela Ruth Nicole Emma Rachel Maria Julie Victoria Kate Alice Jane Lucy Sophie Claire Anne "
    "Kelly".split()
)

PLACES: Final = tuple(
    "store park school station market museum library beach hospital restaurant office garden hotel "
    "theater airport bank church bridge harbor farm".split()
)

GIFTS: Final = tuple(
    "drink book ring ball letter ticket phone hat coat key box cup flower picture map basket camera pen coin sandwich".split()
)

LIST_WORDS: Final = tuple(
    "garden paper silver window river stone apple table candle mirror winter summer forest bridge bottle "
    "ladder engine carpet pocket hammer basket button blanket kitchen pencil ticket planet island valley "
    "desert ocean mountain castle tower village market temple palace prison station harbor tunnel corner "
    "square circle triangle number letter color music dance theater movie novel poem story song guitar "
    "piano violin drum trumpet whistle thunder lightning storm rain snow wind cloud sky moon star sun "
    "earth fire water metal iron copper gold steel glass plastic rubber leather cotton silk wool wood "
    "brick sand clay dust smoke shadow light lamp torch flame ash salt sugar honey butter cheese bread "
    "rice soup salad lemon orange banana cherry grape peach potato tomato onion garlic pepper ginger "
    "coffee tea milk juice wine beer plate bowl cup fork knife spoon pan oven stove chair desk bed sofa "
    "pillow curtain door wall floor roof ceiling stairs fence gate road street path train truck bus boat "
    "ship plane wheel rocket horse tiger lion wolf bear monkey rabbit mouse snake spider ant bee "
    "butterfly bird eagle duck chicken goose fish whale shark turtle frog dragon knight queen king prince "
    "soldier sailor pilot doctor nurse teacher lawyer farmer singer painter writer judge guard thief "
    "ghost witch giant robot machine camera radio phone screen cable battery magnet needle thread rope "
    "chain belt shirt coat hat shoe sock glove ring crown sword shield arrow bow gun bomb ball toy doll "
    "card dice coin money bank shop store school college church hospital office farm field lake pond "
    "beach wave tide cave cliff hill leaf flower grass tree root seed fruit bone skin blood heart brain "
    "finger hand foot nose mouth tooth hair".split()
)
"""Ordinary nouns that the lists of the induction corpus are drawn from."""
