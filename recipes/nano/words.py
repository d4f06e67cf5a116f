"""Words of music and sound that get a vector of their own because the teacher splits them."""

_TEXT = """
accordion acoustic adagio airy allegro ambience ambient andante anthemic arpeggiated arpeggio
arpeggios atmospheric atonal backbeat bagpipe bagpipes ballad bandoneon banjo baroque bassline
basslines bassoon beat beats bebop bell bells birdsong bittersweet bluegrass blues bluesy bodhran
bongo bongos boombap bossa bouncy bouzouki brass brassy breakbeat breakbeats breezy brooding bubbling
buzzing cajon calm campfire cello cellos celesta chamber chanting charango cheerful chill chillhop
chillout chime chimes chiming chiptune chirping chirp choir choral chord chords chorus chugging
cinematic clap claps clarinet classical clave clavichord clavinet clicking clock congas contrabass
cor cowbell crackle crackling crash creaking cricket crickets croaking crunchy cymbal cymbals
dancehall dancey danceable darbuka dark deep delay didgeridoo digeridoo dissonant distorted
distortion disco djembe doorbell downtempo dramatic dreamy dreampop drill dripping drizzle drone
drones drum drumbeat drumkit drumline drummer drumming drumroll drums drumstick dub dubstep dulcimer
duduk dystopian echoing eerie electric electro electronic electronica energetic engine enka epic
erhu ethereal euphonium euphoric fanfare fiddle fiddles fingerpicked fingerpicking fingerstyle
firecracker fireplace flamenco flugelhorn flute flutes flutist folk folksy folktronica footstep
footsteps foghorn fretless frog frogs funk funky gamelan glassy glitchy glockenspiel gloomy gong
gothic groove grooves groovy grunge guitar guitars guiro gusty guzheng hailstorm hammond handclap
handclaps handpan happy hardcore hardstyle harmonica harmonium harp harpsichord haunting hawaiian
heartbeat heavy hihat hihats hiphop hiss hissing honking horn horns howling hum humming hypnotic
idm industrial instrumental jangly jazz jazzy jingle jingling joyful jungle kalimba kazoo keyboard
keyboards keytar kick klezmer kora koto lament lazy legato lilting lively lofi loop lounge lullaby
lush lute lyre majestic mallet mandolin maracas march marching marimba mbira meditative meditation
melancholic melancholy mellotron mellow melodic melodies melody menacing metal metallic metronome
microtonal minimalist moody motif motor motorcycle mournful mridangam muffled murmur musette
mysterious nocturne nostalgic nylon oboe ocarina ocean octave ominous orchestra orchestral organ
ornamental ostinato oud overdriven overdrive pad pads pandeiro panflute peaceful pentatonic
percussion percussive phonk phrygian pianissimo piano pianos piccolo pizzicato playful plucked plucky
polka polyphonic polyrhythm pounding powerful psychedelic psytrance pulsating pulsing purring
quartet quena qawwali ragtime rain rainfall raindrops rainy rave reed reeds reflective reggae
reggaeton relaxed relaxing retro reverb reverberant reverse rhodes rhythm rhythmic rhythms riff riffs
ringing ritual rock rockabilly romantic rumbling rustling sad salsa samba santoor sarangi sarod
saxophone saxophones scratchy seagull seagulls seashore sentimental serene shaker shakers shakuhachi
shamisen sharp shimmering shimmery shoegaze shred shuffle sibelius sidechain siren sirens sitar
sizzling ska sluggish snare snares soaring softly solemn soothing somber sombre sorrowful soulful
soundscape soundscapes soundtrack spacey sparkling sparse spooky staccato steelpan steam stomping
stomp storm strings strum strummed strumming stormy suona surf surfing suspenseful swing swinging
swirling symphonic symphony syncopated synth synthesizer synthesizers synthesiser synthpop synths
synthwave tabla taiko tambourine tango tanpura techno tempo tense theremin thrash thunder thunderclap
thunderstorm ticking timbales timpani tinkling tinny toms torrential traffic train trance tranquil
trap traffic tremolo triangle triphop triumphant trombone trombones trumpet trumpets tuba tubular
tuneful typewriter ukulele unsettling upbeat uplifting uptempo vaporwave vibes vibraphone vibrato
vinyl viola violin violins violoncello virtuosic vocals vocoder waltz warbling warm water waterfall
wave waves whimsical whirring whistle whistling wind winds windy windchimes wistful wobble woodblock
woodwind woodwinds woofing xylophone yodeling zither zurna
"""

WORDS = tuple(dict.fromkeys(_TEXT.split()))

# Replacements for words that the teacher does not know.
GLOSSES = {
    "lofi": "lo-fi chill hip hop",
    "chillhop": "chill hip hop",
    "boombap": "boom bap hip hop",
    "downtempo": "slow chill electronic",
    "uptempo": "fast tempo",
    "sitar": "sitar, Indian plucked strings,",
    "tabla": "tabla, Indian hand drums,",
    "tanpura": "tanpura, Indian drone strings,",
    "sarangi": "sarangi, Indian bowed strings,",
    "koto": "koto, Japanese plucked strings,",
    "shakuhachi": "shakuhachi, Japanese bamboo flute,",
    "erhu": "erhu, Chinese violin,",
    "guzheng": "guzheng, Chinese zither,",
    "kalimba": "kalimba, African thumb piano,",
    "djembe": "djembe, African hand drum,",
    "rhodes": "electric piano",
    "hammond": "electric organ",
    "clavinet": "funky electric keyboard",
    "pad": "soft synthesizer",
    "pads": "soft synthesizer",
    "kick": "bass drum",
    "snare": "snare drum",
    "hihat": "hi-hat cymbal",
    "hihats": "hi-hat cymbal",
    "surf": "ocean waves",
    "harmonium": "reed organ",
    "unplugged": "acoustic guitar",
}
