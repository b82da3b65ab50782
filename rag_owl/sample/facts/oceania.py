"""Facts on the countries of Oceania."""

from __future__ import annotations

from rag_owl.sample.facts.country import Country

# fmt: off
OCEANIA: list[Country] = [
    Country("Australia", "AU", "Oceania", "Canberra", 27_500_000, 2025,
     languages=("English",), official=False, currency="Australian dollar",
     flag="the Union Jack in the canton of a blue field, a large seven-pointed star below it and "
          "five stars in the fly",
     meaning="the large star stands for the states and territories, and the five stars are the "
             "Southern Cross",
     peak="Mount Kosciuszko", metres=2228, exports=("iron ore", "coal", "natural gas"),
     remark="The largest city of Australia is Sydney."),
    Country("the Marshall Islands", "MH", "Oceania", "Majuro", 82_000, 2024,
     languages=("Marshallese", "English"), currency="United States dollar",
     flag="an orange and a white ray that widen across a blue field and a white star of 24 points",
     meaning="the rays stand for two chains of islands, and the star for the municipalities",
     peak="a rise on Airik Island", metres=14, exports=("fish", "coconut oil"),
     remark="Bikini Atoll belongs to the Marshall Islands."),
    Country("Micronesia", "FM", "Oceania", "Palikir", 99_600, 2024,
     languages=("English",), currency="United States dollar",
     flag="four white stars in a ring on a light blue field",
     meaning="the four stars stand for the states Chuuk, Kosrae, Pohnpei and Yap, and blue for "
             "the Pacific",
     peak="Nanlaud", metres=782, exports=("fish", "betel nuts"),
     remark="The ruined stone city of Nan Madol was built in a lagoon of Micronesia."),
    Country("New Zealand", "NZ", "Oceania", "Wellington", 5_160_000, 2024,
     languages=("English", "Māori"), official=False, currency="New Zealand dollar",
     flag="the Union Jack in the canton of a blue field and four red stars edged in white",
     meaning="the four stars are the Southern Cross and blue stands for the sea and the sky",
     peak="Aoraki / Mount Cook", metres=3724, exports=("milk", "meat", "timber"),
     remark="In 1893 New Zealand became the first country where all women could vote."),
    Country("Palau", "PW", "Oceania", "Ngerulmud", 21_900, 2025,
     languages=("Palauan", "English"), currency="United States dollar",
     flag="a yellow disc, a little towards the hoist, on a light blue field",
     meaning="the disc is the full moon and blue stands for the Pacific Ocean",
     peak="Mount Ngerchelchuus", metres=242, exports=("fish", "shellfish"),
     remark="Jellyfish Lake in Palau is known for its golden jellyfish."),
    Country("Samoa", "WS", "Oceania", "Apia", 210_000, 2025,
     languages=("Samoan", "English"), currency="Samoan tala",
     flag="a red field with five white stars on a blue canton",
     meaning="the stars are the Southern Cross, red stands for courage, blue for freedom and "
             "white for purity",
     peak="Mount Silisili", metres=1857, exports=("coconut oil", "fish"),
     remark="In 2011 Samoa moved to the other side of the International Date Line."),
    Country("Solomon Islands", "SB", "Oceania", "Honiara", 739_000, 2025,
     languages=("English",), currency="Solomon Islands dollar",
     flag="a yellow diagonal between a blue and a green triangle, with five white stars",
     meaning="the five stars stand for the first five provinces, blue for water, green for land "
             "and yellow for sunshine",
     peak="Mount Popomanaseu", metres=2335, exports=("timber", "fish", "palm oil"),
     remark="The battle of Guadalcanal was fought in the waters and jungles of Solomon Islands "
            "in 1942 and 1943."),
    Country("Tonga", "TO", "Oceania", "Nuku'alofa", 105_000, 2025,
     languages=("Tongan", "English"), currency="Tongan pa'anga",
     flag="a red field with a red cross on a white canton",
     meaning="the cross stands for Christianity, red for the blood of Christ and white for purity",
     peak="Kao", metres=1046, exports=("squash", "fish", "vanilla"),
     remark="Tonga is the only kingdom left among the island countries of Polynesia."),
    Country("Tuvalu", "TV", "Oceania", "Funafuti", 11_800, 2025,
     languages=("Tuvaluan", "English"), currency="Australian dollar",
     flag="the Union Jack in the canton of a light blue field and nine yellow stars",
     meaning="the nine stars stand for the nine islands, set out much as they lie on the map",
     peak="an unnamed rise", metres=5, exports=("fish", "copra"),
     remark="Tuvalu earns money by renting out its internet ending, the letters tv."),
    Country("Vanuatu", "VU", "Oceania", "Port Vila", 318_000, 2024,
     languages=("Bislama", "English", "French"), currency="Vanuatu vatu",
     flag="a black triangle with a boar's tusk and a yellow Y edged in black, between a red and "
          "a green stripe",
     meaning="the Y follows the shape of the islands, the tusk stands for prosperity and the "
             "leaves for peace",
     peak="Mount Tabwemasana", metres=1877, exports=("fish", "copra", "kava"),
     remark="Land diving on Pentecost Island in Vanuatu inspired bungee jumping."),
]
# fmt: on
