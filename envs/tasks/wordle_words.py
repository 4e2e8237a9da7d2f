"""The built-in words of `Wordle-v0`: common English ones of five letters."""

from __future__ import annotations

_WORDS = """
    about above abuse actor acute admit adopt adult after again agent agree ahead alarm album alert alike alive allow alone
    along alter among anger angle angry apart apple apply arena argue arise array aside asset audio avoid awake award aware
    badly baker basic basis beach began begin being below bench birth black blade blame blank blast blaze bleed blend blind
    block blood bloom board boast bonus booth bound brain brake brand brave bread break breed brick bride brief bring broad
    brown brush build bunch burst buyer cabin cable candy cargo carry catch cause chain chair chalk charm chart chase cheap
    check cheek cheer chess chest chief child china choir chose civil claim class clean clear clerk click cliff climb clock
    close cloth cloud coach coast color coral couch could count court cover crack craft crane crash crazy cream creek crime
    cross crowd crown crude cruel crush curve cycle daily dairy dance death debut delay dense depth devil diary dirty donor
    doubt dozen draft drain drama dream dress dried drift drill drink drive drove eager early earth eight elbow elder elect
    empty enemy enjoy enter entry equal error essay event every exact exist extra fable faith false fancy fault favor feast
    fence fever fiber field fifth fifty fight final first flame flash fleet flesh float flood floor flour fluid focus force
    forge forth forty forum found frame fraud fresh front frost fruit funny ghost giant given glass globe glory glove grace
    grade grain grand grant grape graph grasp grass grave great green greet grief grind gross group grown guard guess guest
    guide habit happy harsh haste heart heavy hedge honey honor horse hotel house human humor ideal image index inner input
    irony issue ivory jewel joint judge juice knife knock label labor large laser later laugh layer learn lease least leave
    legal lemon level light limit linen liver local lodge logic loose lower loyal lucky lunar lunch magic major maker march
    match maybe mayor medal media melon mercy merge merit merry metal meter might minor mixed model money month moral motor
    mount mouse mouth movie music nerve never newly night noble noise north novel nurse ocean offer often olive onion opera
    orbit order organ other outer owner oxide ozone paint panel paper party pasta patch pause peace pearl phase phone photo
    piano piece pilot pitch place plain plane plant plate point polar porch pound power press price pride prime print prior
    prize proof proud prove pulse pupil queen quest quick quiet quite quote radar radio raise rally ranch range rapid ratio
    reach ready realm rebel refer relax reply rider ridge rifle right rigid rival river robot rough round route royal rural
    salad sauce scale scarf scene scent scope score scout screw seven shade shake shame shape share shark sharp sheep sheet
    shelf shell shift shine shirt shock shore short shown sight silly since skill skirt sleep slice slide slope small smart
    smell smile smoke snake solar solid solve sorry sound south space spare speak speed spell spend spice spine split spoon
    sport staff stage stair stake stamp stand start state steam steel steep stern stick still stock stone stood storm story
    stove straw strip study style sugar suite sunny super sweet swing sword table taste teach tenth thank theft theme there
    thick thief thing think third those three throw thumb tiger tight title toast today token topic torch total touch tough
    tower trace track trade trail train treat trend trial tribe trick truck truly trust truth twice uncle under union unity
    until upper upset urban usage usual valid value vapor vault venue video virus visit vital vivid vocal voice voter wagon
    waste watch water weary weigh wheat wheel where which while white whole woman world worry worse worth would wound wrist
    write wrong wrote yacht yield young youth zebra
"""

WORDS: tuple[str, ...] = tuple(_WORDS.split())
