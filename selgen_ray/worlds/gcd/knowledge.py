"""Facts of the gcd world besides numbers: capitals and everyday things."""

from __future__ import annotations

_CAPITALS = """
Afghanistan Kabul, Albania Tirana, Algeria Algiers, Angola Luanda, Argentina Buenos_Aires, Armenia Yerevan,
Australia Canberra, Austria Vienna, Azerbaijan Baku, Bangladesh Dhaka, Belarus Minsk, Belgium Brussels,
Bosnia_and_Herzegovina Sarajevo, Brazil Brasília, Bulgaria Sofia, Cambodia Phnom_Penh, Cameroon Yaoundé, Canada Ottawa,
Chile Santiago, China Beijing, Colombia Bogotá, Croatia Zagreb, Cuba Havana, Cyprus Nicosia, Denmark Copenhagen,
Ecuador Quito, Egypt Cairo, Estonia Tallinn, Ethiopia Addis_Ababa, Finland Helsinki, France Paris, Georgia Tbilisi,
Germany Berlin, Ghana Accra, Greece Athens, Hungary Budapest, Iceland Reykjavik, India New_Delhi, Iran Tehran,
Iraq Baghdad, Ireland Dublin, Italy Rome, Jamaica Kingston, Japan Tokyo, Jordan Amman, Kenya Nairobi, Laos Vientiane,
Latvia Riga, Lebanon Beirut, Libya Tripoli, Lithuania Vilnius, Madagascar Antananarivo, Mali Bamako, Malta Valletta,
Mongolia Ulaanbaatar, Morocco Rabat, Mozambique Maputo, Namibia Windhoek, Nepal Kathmandu, New_Zealand Wellington,
Nigeria Abuja, North_Macedonia Skopje, Norway Oslo, Oman Muscat, Pakistan Islamabad, Paraguay Asunción, Peru Lima,
Poland Warsaw, Portugal Lisbon, Qatar Doha, Romania Bucharest, Russia Moscow, Rwanda Kigali, Saudi_Arabia Riyadh,
Senegal Dakar, Serbia Belgrade, Slovakia Bratislava, Slovenia Ljubljana, Somalia Mogadishu, South_Korea Seoul,
Spain Madrid, Sudan Khartoum, Sweden Stockholm, Syria Damascus, Thailand Bangkok, Tunisia Tunis, Turkey Ankara,
Uganda Kampala, Ukraine Kyiv, Uruguay Montevideo, Uzbekistan Tashkent, Venezuela Caracas, Vietnam Hanoi, Zambia Lusaka,
Zimbabwe Harare, the_Philippines Manila, the_United_Kingdom London, the_United_States Washington
"""
# without countries that have two capitals or a disputed name

_EVERYDAY = {  # kind of question -> 'subject answer' pairs
    "the colour of {}": """
snow white, coal black, a_ripe_banana yellow, blood red, grass green, the_clear_sky blue, a_carrot orange,
an_emerald green, a_ruby red, milk white, a_lemon yellow, chocolate brown, an_elephant grey, a_flamingo pink""",
    "the opposite of {}": """
hot cold, big small, fast slow, rich poor, wet dry, early late, full empty, loud quiet, strong weak, happy sad,
long short, near far, clean dirty, thick thin, old young, high low, light dark, hard soft, day night, up down""",
    "the name of a young {}": """
dog puppy, cat kitten, cow calf, sheep lamb, horse foal, hen chick, duck duckling, bear cub, frog tadpole, goat kid""",
    "the day after {}": """
Monday Tuesday, Tuesday Wednesday, Wednesday Thursday, Thursday Friday, Friday Saturday, Saturday Sunday""",
    "the month after {}": """
January February, February March, March April, April May, May June, June July, July August, August September,
September October, October November, November December""",
}


def _paired(listing: str) -> dict[str, str]:
    entries = (entry.split() for entry in listing.replace("\n", " ").split(","))
    return {subject.replace("_", " "): answer.replace("_", " ") for subject, answer in entries}


CAPITALS = _paired(_CAPITALS)
"""Country -> capital."""

EVERYDAY = {
    about.format(subject): (answer, others)
    for about, listing in _EVERYDAY.items()
    for facts in (_paired(listing),)
    for others in (tuple(sorted(set(facts.values()))),)
    for subject, answer in facts.items()
}
"""Subject -> (answer, all answers to such questions): 'the opposite of hot' -> ('cold', ('cold', 'dark', ...))."""
