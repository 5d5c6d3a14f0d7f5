"""The vocabulary of the demo shop: kinds of goods, colours, patterns and materials in five languages.

The tables are text, one row a line, cells split by `|`; a cell holds synonyms split by `/`.
"""

from dataclasses import dataclass

LANGUAGES = ("en", "de", "sv", "es", "fr")

_KINDS = """
mug     | Home/Kitchen/Mugs          | ml  | 250 330 450  | 11
plate   | Home/Kitchen/Plates        | cm  | 18 22 27     | 13
teapot  | Home/Kitchen/Teapots       | ml  | 600 900 1200 | 29
bottle  | Home/Kitchen/Bottles       | ml  | 350 500 750  | 19
knife   | Home/Kitchen/Knives        | cm  | 12 18 24     | 34
vase    | Home/Decor/Vases           | cm  | 15 22 30     | 26
clock   | Home/Decor/Clocks          | cm  | 25 30 40     | 31
cushion | Home/Decor/Cushions        | cm  | 40 45 50     | 18
lamp    | Home/Lighting/Lamps        | cm  | 32 40 52     | 49
chair   | Home/Furniture/Chairs      | cm  | 78 82 88     | 89
bag     | Fashion/Accessories/Bags   | l   | 8 12 18      | 45
hat     | Fashion/Accessories/Hats   | cm  | 55 57 59     | 27
watch   | Fashion/Accessories/Watches| mm  | 34 38 42     | 79
shoe    | Fashion/Footwear/Shoes     | eu  | 37 40 43     | 64
shirt   | Fashion/Clothing/Shirts    | fit | 0 1 2 3      | 22
dress   | Fashion/Clothing/Dresses   | fit | 0 1 2 3      | 46
"""
_NOUNS = """
mug | mug/coffee cup/tea mug/beaker | Tasse/Kaffeebecher | mugg | taza | tasse/mug
plate | plate/dinner plate/serving dish | Teller/Speiseteller | tallrik | plato | assiette
teapot | teapot/tea pot/tea kettle | Teekanne/Kanne | tekanna | tetera | théière
bottle | bottle/water bottle/flask/thermos | Trinkflasche/Flasche | flaska | botella | gourde
knife | knife/kitchen knife/chef's knife/blade | Messer/Küchenmesser | kniv | cuchillo | couteau
vase | vase/flower vase/decorative jar | Vase/Blumenvase | vas | jarrón | vase
clock | wall clock/clock/silent clock | Wanduhr/Uhr | väggklocka | reloj de pared | horloge
cushion | cushion/throw pillow/sofa cushion | Kissen/Zierkissen | kudde | cojín | coussin
lamp | table lamp/lamp/bedside light/desk light | Tischlampe/Leuchte | bordslampa | lámpara | lampe
chair | chair/dining chair/side chair/seat | Stuhl/Esszimmerstuhl | stol | silla | chaise
bag | bag/handbag/tote/shopper | Tasche/Handtasche | väska | bolso | sac à main
hat | hat/sun hat/brimmed hat | Hut/Sonnenhut | hatt | sombrero | chapeau
watch | watch/wrist watch/timepiece | Armbanduhr/Uhr | armbandsur | reloj | montre
shoe | sneaker/trainers/shoes/casual shoe | Sneaker/Turnschuh | sneakers/skor | zapatillas | baskets
shirt | shirt/t-shirt/tee/top | T-Shirt/Hemd | tröja | camiseta | tee-shirt
dress | dress/summer dress/midi dress | Kleid/Sommerkleid | klänning | vestido | robe
"""
_TRAITS = """
mug     | ceramic porcelain stoneware enamel | large handle/dishwasher safe/hand glazed/stackable
plate   | porcelain stoneware ceramic        | wide rim/coupe shape/microwave safe/oven proof
teapot  | ceramic porcelain stoneware        | with strainer/with lid/hand painted/drip free
bottle  | steel aluminium glass              | leakproof/double wall/screw cap/BPA free
knife   | steel damascus                     | full tang/riveted handle/razor sharp/forged
vase    | ceramic stoneware porcelain        | narrow neck/handmade/for dried flowers/matt
clock   | wood steel aluminium               | silent movement/quartz/easy to read/no ticking
cushion | cotton linen velvet                | hidden zip/with filling/washable cover/soft
lamp    | ceramic wood steel                 | fabric shade/dimmable/E27/textile cable
chair   | oak beech steel                    | upholstered/padded seat/stackable/curved back
bag     | leather canvas cotton              | zip pocket/long straps/magnetic closure/lined
hat     | wool straw cotton                  | wide brim/packable/with ribbon/UV protection
watch   | leather steel                      | water resistant/date window/quartz/mineral glass
shoe    | leather canvas suede               | rubber sole/lace-up/breathable/low top
shirt   | cotton linen                       | short sleeve/regular fit/crew neck/pre-shrunk
dress   | cotton linen viscose               | sleeveless/a-line/with belt/side pockets
"""
_COLOURS = """
white   | F4F1EA | weiß    | vit       | blanco   | blanc
black   | 34343A | schwarz | svart     | negro    | noir
grey    | 8E949C | grau    | grå       | gris     | gris
red     | C8352F | rot     | röd       | rojo     | rouge
coral   | EE7B62 | koralle | korall    | coral    | corail
orange  | E58A2B | orange  | orange    | naranja  | orange
mustard | D6A62C | senf    | senapsgul | mostaza  | moutarde
yellow  | F1D04B | gelb    | gul       | amarillo | jaune
green   | 3F8F5B | grün    | grön      | verde    | vert
sage    | 9DB294 | salbei  | salvia    | salvia   | sauge
teal    | 1F8080 | petrol  | petrol    | petróleo | canard
sky     | 7DB7E0 | hellblau| ljusblå   | celeste  | azur
blue    | 2F62B5 | blau    | blå       | azul     | bleu
navy    | 223459 | marine  | marinblå  | marino   | marine
purple  | 74489D | lila    | lila      | morado   | violet
pink    | E9A0B4 | rosa    | rosa      | rosa     | rose
brown   | 86583A | braun   | brun      | marrón   | marron
beige   | D9C4A3 | beige   | beige     | beis     | beige
"""
_PATTERNS = """
plain    | plain/solid                | einfarbig      | enfärgad       | liso              | uni
two-tone | two-tone/dipped            | zweifarbig     | tvåfärgad      | bicolor           | bicolore
stripes  | striped/stripes            | gestreift      | randig         | rayas             | rayé
bars     | vertical stripes/pinstripe | Längsstreifen  | lodräta ränder | rayas verticales  | rayures
dots     | polka dot/dotted           | gepunktet      | prickig        | lunares           | à pois
checks   | checked/gingham/plaid      | kariert        | rutig          | cuadros           | carreaux
floral   | floral/flower print        | geblümt        | blommig        | flores            | fleuri
waves    | wavy/waves                 | Wellen         | vågor          | olas              | vagues
zigzag   | zigzag/chevron             | Zickzack       | sicksack       | zigzag            | zigzag
speckle  | speckled/terrazzo          | gesprenkelt    | spräcklig      | moteado           | moucheté
ombre    | ombre/gradient             | Farbverlauf    | tonad          | degradado         | dégradé
leaves   | leaf print/botanical       | Blätter        | löv            | hojas             | feuilles
star     | star/star motif            | Stern          | stjärna        | estrella          | étoile
heart    | heart/love heart           | Herz           | hjärta         | corazón           | cœur
mountain | mountain/alpine            | Berge          | berg           | montaña           | montagne
sun      | sunrise/sun                | Sonne          | sol            | amanecer          | soleil
"""
_MATERIALS = """
ceramic   | ceramic         | Keramik       | keramik         | cerámica   | céramique
porcelain | porcelain       | Porzellan     | porslin         | porcelana  | porcelaine
stoneware | stoneware       | Steinzeug     | stengods        | gres       | grès
enamel    | enamel          | Emaille       | emalj           | esmaltado  | émail
steel     | stainless steel | Edelstahl     | rostfritt stål  | acero      | inox
aluminium | aluminium       | Alu           | aluminium       | aluminio   | aluminium
glass     | glass           | Glas          | glas            | vidrio     | verre
damascus  | damascus steel  | Damaststahl   | damaskusstål    | damasco    | damas
wood      | wooden          | Holz          | trä             | madera     | bois
oak       | oak             | Eiche         | ek              | roble      | chêne
beech     | beech           | Buche         | bok             | haya       | hêtre
cotton    | cotton          | Baumwolle     | bomull          | algodón    | coton
linen     | linen           | Leinen        | linne           | lino       | lin
velvet    | velvet          | Samt          | sammet          | terciopelo | velours
viscose   | viscose         | Viskose       | viskos          | viscosa    | viscose
leather   | leather         | Leder         | läder           | cuero      | cuir
canvas    | canvas          | Segeltuch     | kanvas          | lona       | toile
suede     | suede           | Wildleder     | mocka           | ante       | daim
wool      | wool            | Wolle         | ull             | lana       | laine
straw     | straw           | Stroh         | halm            | paja       | paille
"""
SELLING = {
    "en": ("new", "top quality", "gift idea", "free shipping", "bestseller", "modern", "stylish", "great value"),
    "de": ("Neu", "Top Qualität", "Geschenkidee", "modern", "Angebot", "versandkostenfrei"),
    "sv": ("nyhet", "fri frakt", "presenttips", "modern", "populär"),
    "es": ("nuevo", "envío gratis", "regalo original", "moderno", "oferta"),
    "fr": ("nouveau", "livraison gratuite", "idée cadeau", "moderne", "promo"),
}
_COLLECTIONS = """
Alma Fjord Luna Nora Siena Oslo Kyoto Vega Terra Isla Bruno Mira Sol Hygge Porto Capri Lund Aster Wren Juno Cleo Otto
Pia Rio Tilda Nest Arden Coco Dune Ember Flint Haven Indie Linnea Marlow Petra Quinn Runa
"""
COLLECTIONS = tuple(_COLLECTIONS.split())


def _rows(table: str) -> dict[str, list[str]]:
    cells = ([cell.strip() for cell in line.split("|")] for line in table.strip().splitlines())
    return {first: rest for first, *rest in cells}


@dataclass(frozen=True)
class Kind:
    """A leaf of the category tree; `price` is a typical one in euros."""

    name: str
    category: str
    unit: str
    sizes: tuple[int, ...]
    price: float
    materials: tuple[str, ...]
    features: tuple[str, ...]


def _kind(name: str, category: str, unit: str, sizes: str, price: str) -> Kind:
    materials, features = _rows(_TRAITS)[name]
    numbers = tuple(map(int, sizes.split()))
    return Kind(name, category, unit, numbers, float(price), tuple(materials.split()), tuple(features.split("/")))


KINDS = {name: _kind(name, *cells) for name, cells in _rows(_KINDS).items()}
COLOURS = {name: int(cells[0], 16) for name, cells in _rows(_COLOURS).items()}
PATTERNS = tuple(_rows(_PATTERNS))
_TRANSLATIONS = {
    "kind": _rows(_NOUNS),
    "colour": {name: [name, *cells[1:]] for name, cells in _rows(_COLOURS).items()},
    "pattern": _rows(_PATTERNS),
    "material": _rows(_MATERIALS),
}


def synonyms(sort: str, name: str, language: str) -> list[str]:
    """What shops call `name` in `language`; `sort` is kind, colour, pattern or material."""
    return _TRANSLATIONS[sort][name][LANGUAGES.index(language)].split("/")
