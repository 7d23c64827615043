"""A dozen described adapters, and prompts with what should answer each, written by hand."""

from __future__ import annotations

ADAPTERS = {
    "law": (
        "en",
        "US federal law: statutes, the Constitution, court decisions, legal questions "
        "and contracts",
    ),
    "verse": (
        "en",
        "Poems and verse in rhyme and metre: sonnets, ballads, haiku, in the manner of Keats",
    ),
    "cooking": (
        "en",
        "Recipes, ingredients, baking times, kitchen technique and menus for every diet",
    ),
    "python": (
        "en",
        "Python programming: functions, classes, debugging tracebacks, pytest, type hints",
    ),
    "medicine": (
        "en",
        "Clinical medicine: symptoms, diagnosis, drugs and dosage, anatomy, patient notes",
    ),
    "sql": (
        "en",
        "SQL queries from questions: SELECT, JOIN, GROUP BY over database tables and schemas",
    ),
    "recht": (
        "de",
        "Deutsches Recht: BGB, Mietrecht, Kündigung, Verträge, Urteile und Paragraphen",
    ),
    "maths": (
        "en",
        "Mathematics step by step: algebra, calculus, proofs, equations, geometry",
    ),
    "chess": (
        "en",
        "Chess: openings, endgames, tactics, move notation and analysis of positions",
    ),
    "travel": (
        "en",
        "Travel planning: flights, hotels, itineraries, sights and visas of cities and countries",
    ),
    "cuisine": (
        "fr",
        "Cuisine française: recettes, pâtisserie, sauces et vins",
    ),
    "support": (
        "en",
        "Customer support replies: refunds, orders, shipping, returns, polite emails",
    ),
}
"""name: (language, description)"""
NEAR: tuple[tuple[str, str], ...] = (
    ("Is a verbal contract enforceable under federal law?", "law"),
    ("Which court decisions limit searches of a phone?", "law"),
    ("May the President pardon himself under the Constitution?", "law"),
    ("Write a sonnet about the autumn sea", "verse"),
    ("A short poem with rhymes for my grandmother", "verse"),
    ("Give me a haiku on rain", "verse"),
    ("A recipe for lentil soup, please", "cooking"),
    ("How long do I bake bread with these ingredients?", "cooking"),
    ("What can I substitute for butter when baking?", "cooking"),
    ("Why does this Python function raise a KeyError?", "python"),
    ("Add type hints to this class", "python"),
    ("My pytest fixture runs twice, why?", "python"),
    ("What are the symptoms of appendicitis?", "medicine"),
    ("Usual dosage of ibuprofen for a patient of 70 kg", "medicine"),
    ("Differential diagnosis of chest pain", "medicine"),
    ("SELECT the ten customers with most orders, JOIN orders", "sql"),
    ("Write a query that groups sales by month in the database", "sql"),
    ("Darf der Vermieter mir die Kündigung per E-Mail schicken?", "recht"),
    ("Was sagt das BGB über Verträge mit Minderjährigen?", "recht"),
    ("Welche Urteile gibt es zum Mietrecht bei Schimmel?", "recht"),
    ("Solve the equation x^2 - 5x + 6 = 0 step by step", "maths"),
    ("Prove that the square root of 2 is irrational; a proof please", "maths"),
    ("What is the derivative in calculus of sin(x)?", "maths"),
    ("Which chess opening answers e4 with c5?", "chess"),
    ("Find the best move in this endgame position", "chess"),
    ("Plan an itinerary of three days in Lisbon with hotels", "travel"),
    ("Do I need a visa for these countries?", "travel"),
    ("Une recette de pâtisserie aux pommes", "cuisine"),
    ("Quels vins avec une sauce au poivre ?", "cuisine"),
    ("Reply to a customer who wants a refund for late shipping", "support"),
    ("Draft a polite email about returns", "support"),
)
"""Prompts that share a word with a description, or nearly: LEAST_SCORE was chosen on these."""
FARTHER: tuple[tuple[str, str], ...] = (
    ("Can my landlord evict me without notice?", "law"),
    ("Whose rights does the Miranda warning protect?", "law"),
    ("Roses are red, violets are blue, go on", "verse"),
    ("How do I keep risotto creamy?", "cooking"),
    ("AttributeError: 'NoneType' object has no attribute 'split'", "python"),
    ("My throat hurts and I have a fever", "medicine"),
    ("What is 17 times 23?", "maths"),
    ("Should I castle early?", "chess"),
    ("What to see in Kyoto in spring?", "travel"),
    ("Where is my parcel?", "support"),
)
"""Prompts that share none: what words alone cannot tell."""
OTHERS: tuple[tuple[str, str], ...] = (
    ("Who won the world cup in 1998?", "base"),
    ("Hello!", "base"),
    ("Thanks, that helped a lot", "base"),
    ("Summarise this article about whales", "base"),
    ("What is the tallest mountain on Earth?", "base"),
    ("Translate 'good morning' into Japanese", "base"),
    ("Why is the sky blue?", "base"),
    ("Name three rivers of Africa", "base"),
    ("Wie spät ist es in Tokio?", "base"),
    ("Tell me a joke about elephants", "base"),
)
"""Prompts that are no adapter's."""
LATER: tuple[tuple[str, str], ...] = (
    ("Does a statute of limitations apply to contracts?", "law"),
    ("Compose a ballad in rhyme about a lighthouse", "verse"),
    ("Which kitchen technique browns onions best?", "cooking"),
    ("Debugging: this traceback ends in functions of mine", "python"),
    ("Two drugs were given together; is that safe for the patient?", "medicine"),
    ("JOIN two tables and count rows per schema", "sql"),
    ("Welche Paragraphen regeln die Kündigung durch den Mieter?", "recht"),
    ("Help with my algebra homework on equations", "maths"),
    ("Explain this tactic in a chess position", "chess"),
    ("Cheap flights and hotels for two cities", "travel"),
    ("Une recette avec des sauces légères", "cuisine"),
    ("An order never arrived, write the reply about a refund", "support"),
    ("What did Napoleon do on Elba?", "base"),
    ("How far away is the moon?", "base"),
    ("Give me five names for a cat", "base"),
    ("Is coffee bad for plants?", "base"),
)
"""Written after everything was chosen, and never chosen on."""
