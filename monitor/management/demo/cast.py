"""Who plays: the agents of the simulated fleet, what they work at, and what their customers say."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Actor:
    """One agent of the fleet; `tokens` and `answer_tokens` are what a typical call takes and gives."""

    name: str
    department: str
    model: str
    workflow: str
    tasks: tuple[str, ...]
    tools: tuple[str, ...]
    tokens: int = 2_400
    answer_tokens: int = 260


@dataclass(frozen=True)
class Matter:
    """Why a customer writes, in their words; what a person needs to know of it."""

    opening: str
    answer: str
    why_a_person: str
    summary: str
    skills: tuple[str, ...]


CLERK = Actor(
    "support-clerk",
    "Support",
    "gpt-4o-mini",
    "support",
    ("Answer a customer",),
    ("find_order", "find_customer", "search_handbook"),
    tokens=1_800,
    answer_tokens=140,
)
WORKERS = (
    Actor(
        "invoice-reader",
        "Operations",
        "gpt-4o-mini",
        "invoices",
        ("Read the invoice of Norden Papier", "Read the invoice of Alba Freight", "Match 12 invoices with orders"),
        ("read_pdf", "find_order", "write_booking"),
    ),
    Actor(
        "lead-scout",
        "Sales",
        "gpt-4o",
        "leads",
        ("Look into Harlow Instruments", "Look into Brightwater Labs", "Rank this morning's leads"),
        ("search_web", "find_company", "write_crm"),
        tokens=5_200,
        answer_tokens=480,
    ),
    Actor(
        "newsletter-writer",
        "Marketing",
        "claude-sonnet-4-5",
        "newsletter",
        ("Draft the December newsletter", "Shorten the product story", "Write three subject lines"),
        ("read_brief", "check_links"),
        tokens=6_800,
        answer_tokens=1_100,
    ),
    Actor(
        "stock-planner",
        "Operations",
        "gpt-4o",
        "stock",
        ("Plan next week's orders", "Explain the shortage of A4 paper", "Compare two suppliers"),
        ("query_stock", "forecast_demand", "find_supplier"),
        tokens=3_900,
        answer_tokens=420,
    ),
    Actor(
        "contract-checker",
        "Legal",
        "claude-sonnet-4-5",
        "contracts",
        ("Check the lease of the Leeds office", "Compare two versions of the terms", "List the notice periods"),
        ("read_pdf", "search_clauses"),
        tokens=14_000,
        answer_tokens=900,
    ),
    Actor(
        "ticket-sorter",
        "Support",
        "gpt-4o-mini",
        "tickets",
        ("Sort 40 new tickets", "Find duplicates among the tickets", "Tag the week's complaints"),
        ("list_tickets", "tag_ticket"),
        tokens=2_900,
        answer_tokens=180,
    ),
    Actor(
        "report-builder",
        "Finance",
        "gpt-4o",
        "reports",
        ("Build the weekly sales report", "Explain the rise in freight costs", "Check the cash forecast"),
        ("query_warehouse", "draw_chart", "send_mail"),
        tokens=4_600,
        answer_tokens=700,
    ),
)
ACTORS = (CLERK, *WORKERS)

CUSTOMERS = ("Amelia Davis", "Tomás Ortega", "Priya Nair", "Jonas Weber", "Grace Okafor", "Lena Fischer", "Samuel Reed")
MATTERS = (
    Matter(
        "My order 40718 arrived with a broken lamp. What now?",
        "I am sorry about the lamp. I found your order and can send another one today.",
        "A refund above the agent's limit",
        "The lamp in order 40718 arrived broken; a new one was offered, and the customer would rather have the money.",
        ("returns",),
    ),
    Matter(
        "You charged me twice for the November subscription.",
        "I see two payments of the same amount on 3 November. One of them may be a reservation that expires.",
        "A payment that the agent cannot see through",
        "Two payments on 3 November; the agent cannot tell a reservation from a charge.",
        ("billing",),
    ),
    Matter(
        "Can you change the delivery address? The parcel is already on its way.",
        "The parcel left our house this morning. I will ask the carrier whether it can be redirected.",
        "The carrier has to be called",
        "The parcel is with the carrier; the customer has moved and gave the new address.",
        ("shipping",),
    ),
    Matter(
        "Does the standing desk fit under a sloping ceiling of 2.2 metres?",
        "The desk is 1.25 metres at its highest, so with a monitor arm it stays below 1.8 metres.",
        "A question that the handbook does not answer",
        "The customer asks about a sloping ceiling; the handbook knows only the height of the desk.",
        ("products",),
    ),
)
FOLLOW_UPS = (
    "Thank you. How long will that take?",
    "That would help me, yes.",
    "All right. Will I get that in writing?",
)
THANKS = "Thank you, that is all I needed."
ASKS_FOR_A_PERSON = "This leads nowhere. Let me speak to a human, please."
ERRORS = (
    "503 from the model: overloaded",
    "find_order: connection reset by the warehouse",
    "The answer was no valid JSON",
    "429 from the model: too many requests",
)
HOPELESS = ("The document is encrypted and no password was given", "The account was closed by its owner")
# Why somebody pauses an agent, and what they say when it may go on.
PAUSES = (
    ("The price list is being changed", "The new prices are in"),
    ("Wait until the auditor has looked", "The auditor has no objection"),
    ("Does it really need the whole archive?", "Yes, it does; go on"),
)
CANCELS = ("The order was withdrawn", "Somebody has done this by hand already", "Started twice by mistake")
