"""A client for OpenAI-compatible chat endpoints: at once, within limits and a budget, and nothing asked twice.

client.py     what is called: `Endpoint.ask`
connection.py what its calls share: limits, ledger, what was spent
asking.py     one call of it: an event loop in a thread
exchange.py   one request over HTTP, and what its result means
pacing.py     limits, pauses, back-off
ledger.py     the answers that are kept, and what they cost
questions.py  what is asked and answered
"""

from plaudit.judges.endpoint.client import Endpoint
from plaudit.judges.endpoint.connection import Clock
from plaudit.judges.endpoint.questions import Question, Reply, Spent, Unanswered

__all__ = ["Clock", "Endpoint", "Question", "Reply", "Spent", "Unanswered"]
