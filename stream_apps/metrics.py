"""What the bus tells Prometheus."""

from prometheus_client import Counter, Gauge

EVENTS = Counter("muniment_relay_events", "Events that the relay has read and sent")
WATERMARKS = Counter("muniment_relay_watermarks", "Watermarks that it has sent in messages of their own")
POINTERS = Counter("muniment_relay_pointers", "Events too large or unreadable, sent as pointers to the log")
INCARNATIONS = Counter("muniment_relay_incarnations", "Times that the bus had another past than the log")
POSITION = Gauge("muniment_relay_position", "Position through which the log is on the bus")
WAITING = Gauge("muniment_relay_waiting", "Messages that Kafka hasn't acknowledged yet")
LAYOUT = Gauge("muniment_relay_layout", "Number of the layout in use")

COUNTERS = (EVENTS, WATERMARKS, POINTERS, INCARNATIONS)
"""What is added up over all relays."""
