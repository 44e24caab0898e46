"""The word lists of the `limit` collection, written for this project: names of people and names of things to like.

`THINGS` holds single words and pairs of words. The second word of a pair heads a family; the first is found in
that pair alone, except for eight. No word of a pair is a thing by itself: no thing is part of another's name.
"""

# ruff: noqa: SIM905  (lists of words are easier to read and to extend as text)

FIRST_NAMES = """
Abelard Adalyn Adelbert Aldous Alessio Alethea Alina Alistair Amabel Ambrose Anatole Annika Anselm Antonia Araminta
Archibald Ariadne Arvid Astrid Augustin Aurelia Axel Balthazar Barnaby Bartholomew Beatrix Benedetta Bernadette
Bertrand Bettina Birgit Blaise Bogdan Bonita Boris Branwen Bridget Bruno Caitlin Calista Calvin Camille Caspian
Catalina Cecil Cedric Celeste Chandra Charlotta Chester Clarissa Claudette Clement Clotilde Conrad Constance Coraline
Cordelia Cosima Crispin Cyril Dafydd Dagmar Damaris Dashiell Deirdre Delphine Desmond Dimitri Dinah Dominika Donatello
Dorian Drusilla Duncan Ebenezer Edelgard Edwina Egbert Eirlys Eldred Eleanora Elias Elodie Elspeth Emeric Emmeline
Enrico Ephraim Erasmus Ernestine Esmeralda Estelle Ethelbert Eugenia Evander Evangeline Ezekiel Fabian Felicity
Ferdinand
Fergus Fernanda Fidelia Finnian Fiorella Flavia Florian Francesca Frederika Fritz Gareth Gemma Genevieve Gerhard
Gertrude Gideon Giles Ginevra Giuseppe Godfrey Greta Griselda Guinevere Gunther Gustav Hadrian Halina Hamish Harriet
Hector Hedwig Heloise Henrietta Hermione Hilarion Hildegard Horatio Hortense Hubert Humphrey Ianthe Ignatius Ileana
Imogen Ingeborg Iolanthe Irena Isadora Isidore Ivo Jacinta Jarvis Jemima Jerome Joachim Jocasta Jolanta Josiah
Jovan Juliana Juniper Justus Kalinda Kasimir Katarina Kenelm Kerensa Kieran Klaus Konstantin Lambert Larissa Laszlo
Lavinia Leander Leocadia Leopold Letitia Liesel Linnea Lorcan Lorenz Lothar Lucasta Lucinda Ludmila Ludovic Lysander
Mabel Maddalena Magnus Malachi Manfred Marcella Margit Mariana Matilda Maximilian Melchior Melisande Meredith Mervyn
Millicent Minerva Mirabel Mordecai Morwenna Muriel Myrtle Nadezhda Narcissa Nathalia Nestor Niamh Nicodemus Nigel
Odette Olaf Oleander Oliviero Ondine Orlando Orsolya Oskar Osbert Ottilie Palmira Pascal Patience Percival Perpetua
Petronella Philippa Phineas Phoebe Piotr Placido Primrose Prudence Quentin Quintus Radmila Rafferty Ramona Raphaela
Reinhold Renata Reuben Rhiannon Roderick Rolf Romilly Rosalind Rowena Rufus Rupert Sabine Salvador Samson Saskia
Sebastiana Selwyn Seraphina Severin Sidonie Sigmund Silvester Solange Stanislaw Stellan Svetlana Sybil Tabitha Tamsin
Tarquin Thaddeus Theodora Thorvald Tiberius Timothea Tobias Tristan Ulrike Umberto Ursula Valentin Vasilisa Venetia
Verena Viggo Vincenza Virgil Vladimir Walburga Waldemar Wendelin Wilfred Wilhelmina Winifred Wolfgang Xanthe Xaver
Yevgenia Yolanda Yorick Ysolde Yvette Zachary Zdenka Zelda Zenobia Zoltan
""".split()

SURNAMES = """
Abernathy Achterberg Adlington Aldershaw Almquist Ambleside Andretti Applegarth Arkwright Ashdown Atterbury Babington
Backhouse Balderston Bannister Barraclough Bassington Batterby Beauchamp Beckwith Bellweather Benthall Berriman
Bickerstaff Birtwistle Blackadder Blenkinsop Bloomquist Bonneville Borrowdale Bottomley Bracegirdle Bradwardine
Braithwaite Brockenhurst Brookhaven Broughton Buckminster Bullingdon Burlingame Butterfield Cadwallader Calthorpe
Camberwell Cardwell Carmichael Carruthers Castellano Cattermole Chadderton Chalfont Chatterley Cheeseman Chesterfield
Chudleigh Claverhouse Clutterbuck Cobblepot Colquhoun Copperthwaite Cottesmore Crabtree Cranshaw Crickmay Cromarty
Crookshank Cumberbatch Cuthbertson Dalrymple Danziger Darlington Debenham Delacroix Denholm Dillworth Dockery Dolittle
Drinkwater Dunstable Dunwoody Eaglesham Eastwick Eccleston Edgecumbe Eisenhart Ellingham Elphinstone Entwistle
Erlandson
Etheridge Evershed Fairbrother Fairweather Fallowfield Farnsworth Fauntleroy Featherstone Fennimore Ferrabosco
Fitzwarren Flackworth Fogerty Forsyth Fothergill Foxborough Frobisher Furnival Gainsford Galbraith Garmondsway
Gathercole
Gillingham Gladwell Glendower Godolphin Goldsworthy Goodfellow Gotobed Granville Greatorex Greenhalgh Grimshaw
Grosvenor
Gullickson Haddington Hallworthy Hammersley Hanbury Harbottle Hargreaves Hartshorn Hathersage Hawksmoor Haythornthwaite
Heatherington Hebblethwaite Heidenreich Henriksen Heptinstall Higginbotham Hindmarsh Hobhouse Holbrook Hollingshead
Honeychurch Hornblower Huddlestone Hutchence Illingworth Ingoldsby Inverarity Ironmonger Jarndyce Jellicoe Jernigan
Jollimore Kandinska Kellaway Kenworthy Kerrigan Kettlewell Kilbride Kingsnorth Kirkbride Knatchbull Kowalczyk Lamplugh
Lancaster Langstaff Larkspur Lathbury Leadbetter Leatherbarrow Leofwine Lethbridge Lillywhite Linklater Littlejohn
Llewellyn Lockhart Longbottom Lovelace Lumsden Luttrell Maccallister Mainwaring Malmesbury Mandeville Marchbanks
Marjoribanks Marlinspike Massingberd Mauleverer Meadowcroft Meriwether Micklethwait Middlemass Millington Mompesson
Montague Mortlock Mountjoy Muggeridge Musgrave Nethercott Nettleship Newbolt Nightingale Norrington Nottingham
Oakenshaw Ockenden Oglethorpe Oldcastle Ollerenshaw Openshaw Osbaldeston Otterburn Oxenford Paddington Palliser
Pankhurst Parmenter Patterdale Peabody Peddlesden Pemberton Pendergast Penhaligon Pennyfeather Pettigrew Pickersgill
Pilkington Plumptre Pocklington Polkinghorne Pomeroy Postlethwaite Prendergast Prideaux Pumphrey Quackenbush Quarles
Quillfeather Quimby Rackstraw Radcliffe Rainsborough Ramsbottom Ravenscroft Rawlinson Redfern Rickenbacker Rigby
Rosenkrantz Rotherham Rowbotham Ruthven Saltonstall Sandringham Satterthwaite Scattergood Scrimgeour Sedgewick Severn
Shackleton Shillingford Shuttleworth Sidebottom Silverstone Skeffington Sneddon Somerville Southwell Spofforth
Stackpole Standish Starkadder Steerforth Stockbridge Stonehouse Strickland Summerscale Swinburne Tattersall Templeton
Thackeray Thistlethwaite Thornbury Threlkeld Throckmorton Tiddlywell Tolliver Tradescant Tregarthen Trelawney Trubshaw
Tunnicliffe Turnbull Twelvetrees Underhill Uttoxeter Vandermeer Venables Villiers Waddilove Wainwright Wakefield
Walpole
Wanamaker Warburton Waterhouse Weatherby Wedderburn Wetherell Whitehorn Wickersham Widdrington Wigglesworth
Willoughby Windermere Winterbourne Wolstenholme Woodhouse Wordsley Wrigglesworth Wycherley Yarborough Yelverton
Youngblood Zeffirelli Zimmerman
""".split()

_SINGLE = """
Aardvarks Badgers Beavers Buffaloes Camels Capybaras Cheetahs Chinchillas Civets Cougars Coyotes Dingoes Dolphins
Donkeys Echidnas Elephants Ferrets Foxes Gazelles Gibbons Giraffes Gophers Gorillas Hamsters Hares Hedgehogs Hippos
Hyenas Jackals Jaguars Koalas Lemurs Leopards Llamas Lynxes Manatees Marmots Meerkats Mongooses Moose Narwhals Ocelots
Okapis Opossums Orangutans Otters Platypuses Porcupines Porpoises Raccoons Reindeer Rhinos Seals Sloths Squirrels
Tigers Walruses Warthogs Weasels Wolverines Wombats Yaks Zebras
Albatrosses Avocets Bitterns Blackbirds Bluebirds Buzzards Canaries Cassowaries Chickadees Cockatoos Condors Cormorants
Cranes Cuckoos Curlews Ducks Egrets Emus Falcons Finches Flamingos Geese Goshawks Grebes Grouse Gulls Herons
Hornbills Hummingbirds Ibises Jackdaws Kestrels Kingfishers Kiwis Larks Loons Magpies Mallards Mockingbirds Nuthatches
Orioles Ospreys Ostriches Owls Oystercatchers Peacocks Pelicans Penguins Pheasants Pigeons Plovers Puffins Quails
Ravens Robins Sandpipers Skylarks Sparrows Starlings Storks Swallows Swifts Terns Thrushes Toucans Turkeys Vultures
Wagtails Warblers Woodpeckers Wrens
Anchovies Barnacles Barracudas Bluefish Carp Catfish Clams Clownfish Cockles Cod Crabs Crayfish Cuttlefish Eels
Flounders
Guppies Haddock Herrings Jellyfish Krill Lampreys Limpets Lobsters Mackerel Marlins Minnows Nautiluses Octopuses
Oysters
Perches Pikes Piranhas Prawns Salmon Sardines Scallops Seahorses Sharks Shrimps Snappers Squids Starfish Stingrays
Sturgeons Swordfish Tilapia Trout Turbots Urchins Whelks
Aphids Bees Beetles Bumblebees Butterflies Caterpillars Centipedes Cicadas Cockroaches Crickets Dragonflies Earwigs
Fireflies Grasshoppers Hornets Ladybugs Locusts Mantises Mayflies Millipedes Mosquitoes Moths Scorpions Snails Spiders
Tarantulas Termites Wasps Weevils
Alligators Anacondas Axolotls Basilisks Chameleons Cobras Crocodiles Geckos Iguanas Newts Pythons Rattlesnakes
Salamanders Skinks Tadpoles Terrapins Toads Tortoises Vipers
Acacias Alders Aloes Anemones Ashes Asters Azaleas Bamboos Baobabs Begonias Birches Bluebells Bougainvilleas Brambles
Buttercups Cacti Camellias Carnations Cedars Chrysanthemums Clematis Clovers Cowslips Crocuses Cyclamens Cypresses
Daffodils Dahlias Dandelions Delphiniums Edelweiss Elders Eucalyptuses Ferns Forsythias Foxgloves Freesias Fuchsias
Gardenias Gentians Geraniums Ginkgos Gladioli Hawthorns Heathers Hellebores Hibiscuses Hollies Honeysuckles Hyacinths
Irises Ivy Jasmines Junipers Laburnums Larches Lavender Lichens Lilacs Lilies Lobelias Lotuses Lupins Magnolias
Mahonias
Mangroves Maples Marigolds Mimosas Mistletoe Mosses Nasturtiums Nettles Oaks Oleanders Orchids Palms Peonies Petunias
Phlox Poinsettias Poplars Poppies Primulas Reeds Rhododendrons Roses Rowans Sequoias Snapdragons Snowdrops Sunflowers
Sycamores Thistles Tulips Verbenas Violets Willows Wisterias Yews Yuccas Zinnias
Apples Apricots Avocados Bananas Bilberries Blueberries Cantaloupes Cherries Clementines Coconuts Cranberries Currants
Damsons Dates Durians Elderberries Figs Gooseberries Grapefruits Grapes Guavas Kumquats Lemons Loganberries Lychees
Mandarins Mangoes Mangosteens Medlars Mulberries Nectarines Olives Oranges Papayas Passionfruits Peaches Pears
Persimmons Pineapples Plums Pomegranates Prunes Quinces Raisins Rambutans Raspberries Rhubarb Strawberries Tamarinds
Tangerines Watermelons
Artichokes Asparagus Aubergines Beetroots Broccoli Cabbages Carrots Cauliflowers Celeriac Celery Chickpeas Chicory
Courgettes Cucumbers Endives Fennel Garlic Gherkins Jalapenos Kale Kohlrabi Leeks Lentils Lettuces Mushrooms
Okra Onions
Parsnips Peas Peppers Potatoes Pumpkins Radishes Rutabagas Shallots Spinach Squashes Swedes Sweetcorn Tomatoes Truffles
Turnips Watercress Yams Zucchini
Anise Capers Caraway Cardamom Chives Cinnamon Cloves Coriander Cumin Dill Ginger Horseradish Ketchup Lemongrass
Mace Marjoram Mayonnaise Mint Mustard Nutmeg Oregano Paprika Parsley Rosemary Saffron Sage Sumac Tarragon Thyme
Turmeric
Vanilla Vinegar Wasabi
Almonds Cashews Chestnuts Hazelnuts Macadamias Peanuts Pecans Pistachios Walnuts
Bagels Baguettes Biscotti Brioches Brownies Burgers Burritos Butterscotch Calzones Caramels Casseroles Chutney Crackers
Crepes Croissants Croquettes Crumpets Cupcakes Curries Custard Doughnuts Dumplings Eclairs Empanadas Enchiladas Falafel
Flapjacks Focaccia Fondue Frittatas Fudge Gelato Gingerbread Gnocchi Goulash Granola Guacamole Gumbo Haggis
Honey Hummus
Jambalaya Kebabs Kimchi Lasagne Macarons Macaroni Marmalade Marshmallows Marzipan Meatballs Meringues Moussaka Muesli
Muffins Nachos Noodles Nougat Oatmeal Omelettes Paella Pancakes Pastrami Pavlova Pesto Pierogi Pizza Polenta
Popcorn Porridge Pralines Pretzels Profiteroles Quesadillas Ramen Ravioli Risotto Samosas Sandwiches Sauerkraut Scones
Shortbread Sorbet Spaghetti Strudel Sushi Tacos Tamales Tapioca Tempura Tiramisu Toffee Tortellini Tortillas Trifle
Vermicelli Waffles Wontons Yoghurt
Bourbon Brandy Champagne Cider Cocoa Coffee Cognac Eggnog Espresso Kombucha Lemonade Limoncello Mead Milkshakes Port
Prosecco Rum Sake Sangria Sherry Smoothies Tequila Vermouth Vodka Whisky
Accordions Bagpipes Balalaikas Banjos Bongos Bugles Castanets Celestas Cellos Clarinets Clavichords Concertinas Cornets
Didgeridoos Dulcimers Fiddles Flutes Glockenspiels Gongs Guitars Harmonicas Harps Harpsichords Kazoos Lutes Lyres
Maracas Marimbas Metronomes Oboes Ocarinas Organs Piccolos Recorders Saxophones Sitars Tambourines Theremins Timpani
Trombones Trumpets Tubas Tympanums Ukuleles Vibraphones Violas Violins Zithers
Archery Badminton Baseball Basketball Biathlons Bobsleighs Boxing Canoeing Capoeira Cheerleading Climbing
Croquet Curling Cycling Darts Decathlons Fencing Football Frisbee Golf Gymnastics Handball Hiking Hockey
Hurdling Javelins Jogging Judo Jujitsu Karate Kickboxing Lacrosse Marathons Netball Orienteering Paragliding
Parkour Pentathlons Pilates Polo Rafting Rowing Rugby Sailing Skateboarding Skiing Skydiving Sledding Snooker
Snorkelling Snowboarding Softball Sprinting Steeplechases Sumo Surfing Swimming Taekwondo Tennis Trampolines
Triathlons Tobogganing Waterpolo Weightlifting Windsurfing Wrestling Yoga
Acrobatics Animation Ballet Baking Basketry Beekeeping Birdwatching Blacksmithing Bookbinding Brewing Calligraphy
Camping Carpentry Charades Checkers Chess Choreography Collage Cooking Crosswords Cryptography Decoupage
Dominoes Drumming Embroidery Engraving Etching Falconry Filmmaking Fishing Foraging Gardening Genealogy
Geocaching Glassblowing Hopscotch Hypnosis Improvisation Jigsaws Joinery Juggling Knitting Lacemaking Leatherwork
Macrame Magic Mahjong Marquetry Masonry Metalwork Mime Needlepoint Numismatics Origami Papermaking Philately
Photography Playwriting Poker Pottery Puppetry Quilting Quizzes Reading Recycling Roulette Scrapbooking Screenwriting
Sculpting Sewing Singing Sketching Solitaire Stargazing Storytelling Sudoku Taxidermy Topiary Unicycling Upholstery
Ventriloquism Weaving Welding Whist Whittling Woodcarving
Acoustics Algebra Anatomy Anthropology Archaeology Arithmetic Astronomy Astrophysics Bacteriology Biochemistry Botany
Calculus Cartography Chemistry Climatology Combinatorics Cosmology Cybernetics Dentistry Dermatology Ecology Economics
Electronics Embryology Entomology Epidemiology Epistemology Ethics Etymology Genetics Geography Geology Geometry
Geophysics Glaciology Grammar Herpetology Histology History Horticulture Hydrology Immunology Journalism Jurisprudence
Lexicography Linguistics Logic Mathematics Mechanics Metallurgy Metaphysics Meteorology Microbiology Mineralogy
Mycology
Mythology Nanotechnology Neurology Numerology Oceanography Oncology Optics Ornithology Palaeontology Pathology Pedagogy
Petrology Pharmacology Philosophy Phonetics Physics Physiology Poetry Psychology Radiology Rhetoric Robotics
Seismology Semantics Semiotics Sociology Speleology Statistics Taxonomy Theology Thermodynamics Topology Toxicology
Trigonometry Virology Volcanology Zoology
Agates Alabaster Amber Amethysts Aquamarines Basalt Beryl Bronze Calcite Carnelians Chalk Citrines Cobalt Corals
Diamonds
Emeralds Feldspar Fluorite Garnets Gold Granite Graphite Hematite Jade Lapis Limestone Malachite Marble Mica
Moonstones Nickel Obsidian Onyx Opals Pearls Peridots Platinum Pumice Pyrite Quartz Rubies Sandstone Sapphires Slate
Topazes Tourmalines Turquoise Zircons
Aqueducts Archipelagos Atolls Avalanches Avenues Bakeries Ballrooms Bayous Bazaars Beaches Boulevards Bridges Bungalows
Canals Canyons Caravans Castles Cathedrals Caverns Chalets Chapels Cliffs Cloisters Cottages Courtyards Deltas Deserts
Dunes Estuaries Fjords Fountains Geysers Gorges Greenhouses Harbours Hostels Igloos Islands Jungles Labyrinths Lagoons
Libraries Lighthouses Marinas Marshes Meadows Mesas Minarets Moats Monasteries Mosques Museums Oases Observatories
Orchards Pagodas Palaces Peninsulas Piers Planetariums Plateaus Ponds Prairies Pyramids Quarries Rainforests Ranches
Reefs Rivers Ruins Savannahs Skyscrapers Springs Stadiums Swamps Synagogues Taverns Temples Theatres Tundras Valleys
Viaducts Villages Vineyards Volcanoes Waterfalls Windmills Zoos
Abacuses Aeroplanes Airships Ambulances Anchors Anvils Backpacks Bandanas Barometers Bathtubs Bicycles Binoculars
Blankets Blenders Boomerangs Bulldozers Calculators Calendars Cameras Candles Carousels Catapults Chandeliers Chisels
Clocks Corkscrews Crayons Crossbows Cufflinks Curtains Cushions Dictionaries Dinghies Envelopes Escalators
Fireplaces Forklifts Funnels Galleons Gondolas Gramophones Gyroscopes Hammocks Harpoons Helicopters Helmets Hourglasses
Hovercrafts Jukeboxes Kaleidoscopes Kayaks Keyboards Kimonos Kites Ladders Lampshades Locomotives Magnets
Microscopes Mittens Mopeds Motorcycles Napkins Notebooks Parachutes Parasols Pendulums Periscopes Pianolas Pinwheels
Pogosticks Projectors Pullovers Pushchairs Rickshaws Rollercoasters Sandals Satellites Saucepans Saxhorns Scarecrows
Scooters Seesaws Sextants Shovels Sleighs Slippers Snowglobes Spacecraft Spectacles Stethoscopes Submarines Sundials
Suspenders Swords Syringes Telegrams Telephones Telescopes Thermometers Toasters Tractors Trams Tricycles Trolleys
Tugboats Tuxedos Typewriters Umbrellas Waistcoats Wheelbarrows Whistles Xylographs Yachts Zeppelins Zippers
Ambition Anonymity Autonomy Candour Charity Chivalry Clarity Compassion Courage Courtesy Curiosity Democracy Dignity
Diligence Diplomacy Eloquence Empathy Equality Forgiveness Frugality Generosity Gratitude Harmony Honesty Hospitality
Humility Humour Idealism Independence Ingenuity Integrity Intuition Irony Justice Kindness Leisure Liberty Loyalty
Meditation Minimalism Mischief Modesty Nostalgia Optimism Perseverance Pragmatism Privacy Punctuality Serendipity
Silence Simplicity Sincerity Solitude Spontaneity Stoicism Tolerance Tranquillity Wisdom
Anthems Arias Ballads Bebop Bluegrass Blues Bossanova Calypso Cantatas Chorales Concertos Disco Duets Dubstep Fados
Fanfares Flamenco Foxtrots Fugues Funk Gospel Grunge Hymns Interludes Jazz Jigs Limericks Lullabies Madrigals Mambo
Mazurkas Medleys Minuets Motets Nocturnes Operas Operettas Oratorios Overtures Polkas Preludes Psalms Punk Ragtime
Reggae Requiems Rhapsodies Rondos Rumba Salsa Sambas Scherzos Serenades Shanties Ska Sonatas Soul Swing Symphonies
Tangos Techno Toccatas Waltzes Zydeco
Auroras Blizzards Breezes Comets Constellations Cyclones Dew Drizzle Droughts Earthquakes Eclipses Equinoxes Fog
Galaxies
Hailstones Haze Hurricanes Icicles Lightning Meteors Mirages Mist Monsoons Moonlight Nebulae Orbits Pulsars Quasars
Rainbows Raindrops Sleet Snowflakes Solstices Starlight Stardust Sunrises Sunsets Supernovae Thunderstorms Tides
Tornadoes Tsunamis Typhoons Whirlpools
""".split()

# Things of two words: what they are, then what sets each apart.
_FAMILIES = {
    "Trees": "Linden Hazel Rubber Bonsai Chestnut Monkeypuzzle Plane Hornbeam Teak Mahogany Sandalwood Judas Banyan",
    "Music": "Chamber Klezmer Ambient Country Mariachi Gamelan Chiptune Qawwali Baroque Lounge Choral Folk Barbershop",
    "Cakes": "Carrot Sponge Chocolate Battenberg Simnel Fruit Angelfood Pound Opera Lamington Funnel Madeira Bundt",
    "Bread": "Rye Sourdough Soda Pitta Naan Pumpernickel Banana Flat Seeded Challah Corn Malt Cottage Barley",
    "Movies": "Horror Silent Superhero Heist Disaster Samurai Gangster Zombie Spy Biographical Noir Courtroom",
    "Cheeses": "Blue Cream Smoked Goat Halloumi Gouda Brie Feta Emmental Stilton Manchego Ricotta Wensleydale",
    "Soups": "Tomato Miso Pumpkin Onion Lentil Oxtail Alphabet Minestrone Borscht Bouillabaisse Gazpacho Laksa",
    "Tea": "Green Jasmine Oolong Chamomile Peppermint Darjeeling Rooibos Earl Bubble Nettle Assam Lapsang Matcha",
    "Pies": "Apple Pecan Shepherd Cherry Mince Meringue Pork Treacle Stargazy Fish Gooseberry Chiffon Banoffee",
    "Puddings": "Sticky Rice Yorkshire Plum Butter Semolina Summer Blancmange Queen Roly Bakewell Christmas Suet",
    "Novels": "Gothic Detective Epistolary Picaresque Graphic Dystopian Western Romance Seafaring Satirical Pulp",
    "Paintings": "Landscape Cubist Cave Watercolour Fresco Finger Oil Portrait Pointillist Sand Surrealist Abstract",
    "Dances": "Morris Barn Maypole Belly Tap Square Sword Clog Break Lion Snake Sufi Line",
    "Games": "Board Card Arcade Video Word Roleplaying Party Parlour Dice Memory Skipping Guessing Tabletop",
    "Races": "Relay Horse Sack Greyhound Egg Obstacle Boat Yacht Karting Camel Drag Motorbike Drone",
    "Puzzles": "Logical Mirror Crossing Sliding Maze Chessboard Wooden Riddle Hashi Matchstick Cipher Tiling Lateral",
    "Instruments": "Brass Woodwind Electroacoustic Percussion Surgical Navigational Bowed Toy Reeded Plucked Drafting",
    "Collections": "Stamp Coin Shell Insect Postcard Vinyl Fossil Button Thimble Mineral Autograph Matchbox Teaspoon",
    "Dogs": "Sheep Guide Sled Lap Police Hunting Sausage Water Rescue Terrier Mountain Guard",
    "Cats": "Siamese Persian Tabby Sphynx Manx Calico Burmese Bengal Birman Tortoiseshell Alley Norwegian",
    "Monkeys": "Howler Spider Proboscis Capuchin Vervet Mona Rhesus Colobus Night Tamarin Langur Snub Titi",
    "Frogs": "Bull Clawed Poison Glass Rain Burrowing Marsupial Chirping Horned Goliath Paradoxical Darwin",
    "Gardens": "Rose Zen Herb Kitchen Botanical Rock Walled Roof Cactus Vertical Wild Formal Sunken",
    "Clothes": "Vintage Denim Tweed Silk Corduroy Velvet Woollen Tailored Secondhand Linen Sequinned Flannel Paisley",
    "Hats": "Straw Bowler Top Cowboy Sun Felt Pillbox Panama Fedora Bobble Cloche Trilby Beret",
    "Boots": "Rubberised Ankle Ski Walking Riding Cowgirl Chelsea Snow Suede Wellington Hobnail Platform Combat",
    "Lamps": "Lava Desk Standard Tiffany Paraffin Salt Bedside Anglepoise Neon Paper Gas Hurricane Signal",
    "Chairs": "Rocking Deck Wicker Dentist Swivel Lawn Bath Sedan Windsor Adirondack Rattan Office Camp",
    "Earthenware": "Raku Slipware Delft Majolica Celadon Stoneware Terracotta Jomon Lustre Pueblo Creamware",
    "Trains": "Steam Model Freight Bullet Sleeper Commuter Underground Ghost Funicular Maglev Monorail Narrow Mail",
    "Stars": "Neutron Shooting Binary Dwarf Pole Pop Variable Wolf-Rayet Giant Morning Guest Dark Carbon",
    "Storms": "Derecho Ice Magnetic Electrical Dust Tropical Winter Snowy Hail Solar Fire Wind Meteor",
    "Wars": "Peloponnesian Punic Trojan Crimean Napoleonic Opium Boer Hussite Carlist Peninsular Jacobite Emu Pastry",
    "Empires": "Ottoman Roman Mughal Byzantine Inca Songhai Mongol Habsburg Khmer Mali Sassanid Venetian Assyrian",
    "Architecture": "Brutalist Romanesque Bauhaus Palladian Vernacular Tudor Moorish Georgian Modernist Naval Rococo",
    "Theory": "Game Graph Number Set String Colour Chaos Queueing Musical Literary Knot Measure Probability",
    "Law": "Maritime Constitutional Contract Family Patent Criminal Space Labour Tax Canon Tort Copyright Immigration",
}

# Words that set things apart in many families: only both words together tell "Red Hats" from "Red Cats, Straw Hats".
_SHARED = "Red Miniature Antique Italian French Japanese Festive Ancient".split()

THINGS = (
    _SINGLE
    + [f"{first} {head}" for head, firsts in _FAMILIES.items() for first in firsts.split()]
    + [f"{first} {head}" for i, first in enumerate(_SHARED) for head in list(_FAMILIES)[i % 3 :: 3]]
)
