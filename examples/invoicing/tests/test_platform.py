"""Everything together: `muniment up` with the module, asked over HTTP and on the command line."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from examples.invoicing.tests.shop import NEW, Shop, draft, issued
from tests.e2e.platform import NEVER_HEARD_OF, Caller, at_least, eventually, position


@pytest.fixture(scope="module")
def shop() -> Iterator[Shop]:
    """A short path: sockets have little room."""
    folder = Path(tempfile.mkdtemp(prefix="muniment-"))
    running = Shop(folder)
    try:
        yield running.start()
    finally:
        running.stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def penny(shop: Shop) -> Caller:
    """A clerk of the European company."""
    return shop.hires("penny", "clerk", "/acme/eu")


def test_an_invoice_is_issued_and_paid(shop, penny):
    invoice, at = issued(penny)
    shown = penny.done("GET", f"/api/v1/invoices/{invoice}", **at_least(at)).json()
    assert (shown["invoice"]["status"], shown["invoice"]["open_cents"]) == ("open", 9998)
    assert shown["lines"] == [{"description": "anvil", "quantity": 2, "unit_cents": 4999}]
    payment = {"amount_cents": 9998, "reference": "bank 1"}
    paid = penny.done("POST", f"/api/v1/invoices/{invoice}/payments", payment)
    shown = penny.done("GET", f"/api/v1/invoices/{invoice}", **at_least(position(paid)))
    assert shown.json()["invoice"]["status"] == "paid"
    assert shown.headers["etag"] == paid.headers["etag"] == '"4"'


def test_a_payment_that_is_sent_twice_with_one_key_is_one_payment(shop, penny):
    invoice, _ = issued(penny)
    payment = {"amount_cents": 5000, "reference": "bank 2"}
    sent = [
        penny.done("POST", f"/api/v1/invoices/{invoice}/payments", payment, headers={"idempotency-key": "tuesday"})
        for _ in range(2)
    ]
    assert position(sent[0]) == position(sent[1])
    events = penny.api.same(shop.admin).done("GET", f"/api/v1/events?stream={invoice}&types=invoicing.InvoicePaid")
    assert len(events.json()["items"]) == 1


def test_bad_input_is_named(shop, penny):
    answer = penny.post(
        "/api/v1/invoices", NEW | {"currency": "EUR\n", "customer": " ", "colour": "red", "due_days": 1000}
    )
    assert answer.status_code == 422
    assert {error["field"] for error in answer.json()["errors"]} == {"currency", "customer", "due_days", "colour"}
    for field, value in (("scope", "acme"), ("email", "nobody"), ("email", "a@acme.example\nb"), ("customer", "W\0")):
        answer = penny.post("/api/v1/invoices", NEW | {field: value})
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, field)
    invoice, _ = issued(penny)
    overpaid = penny.post(f"/api/v1/invoices/{invoice}/payments", {"amount_cents": 10**6, "reference": "bank"})
    assert (overpaid.status_code, overpaid.json()["code"]) == (409, "invoice-overpaid")


def test_who_is_a_clerk_elsewhere_neither_sees_nor_touches_it(shop, penny):
    invoice, at = issued(penny)
    quentin = shop.hires("quentin", "clerk", "/acme/us")
    answers = [
        quentin.get(f"/api/v1/invoices/{invoice}", **at_least(at)),
        quentin.get("/api/v1/invoices?scope=/acme"),
        quentin.get("/api/v1/invoices/balance?scope=/acme/eu"),
        quentin.post("/api/v1/invoices", NEW),
        quentin.post(f"/api/v1/invoices/{invoice}/payments", {"amount_cents": 1, "reference": "bank"}),
        quentin.post(f"/api/v1/invoices/{invoice}/void", {"reason": "mine"}),
    ]
    assert [answer.status_code for answer in answers] == [403] * 6
    assert quentin.get("/api/v1/invoices?scope=/acme/us").json() == {"items": [], "next": None}
    refused = shop.admin.get(f"/api/v1/audit?actor=user:{quentin.me}&action=request.refused").json()["items"]
    assert {entry["detail"]["permission"] for entry in refused} == {
        "invoice:read", "invoice:create", "invoice:pay", "invoice:void",
    }  # fmt: skip


def test_a_permission_of_the_module_is_explained_like_any_other(shop, penny):
    answer = shop.admin.check(penny.me, "invoice:issue", "/acme/eu/lisbon", body={"explain": True}).json()
    assert answer["allowed"]
    assert "clerk" in str(answer["because"])


def test_lists_go_page_by_page_and_balances_add_up(shop, penny):
    for _ in range(3):
        _, at = issued(penny, scope="/acme/eu/porto", currency="PTE")
    first = penny.done("GET", "/api/v1/invoices?scope=/acme/eu/porto&status=open&limit=2", **at_least(at)).json()
    rest = penny.done("GET", f"/api/v1/invoices?scope=/acme/eu/porto&status=open&limit=2&cursor={first['next']}").json()
    assert [len(page["items"]) for page in (first, rest)] == [2, 1]
    assert rest["next"] is None
    (escudos,) = penny.done("GET", "/api/v1/invoices/balance?scope=/acme/eu/porto").json()
    assert escudos == {"currency": "PTE", "invoices": 3, "open_cents": 3 * 9998, "overdue_cents": 0}


def test_what_was_done_is_in_the_audit_log_and_nobody_else_can_write_it_there(shop, penny):
    invoice, at = issued(penny)
    entry = shop.admin.get(f"/api/v1/audit?target=invoice:{invoice}", **at_least(at)).json()["items"][0]
    assert (entry["action"], entry["actor"]) == ("invoice.issued", f"user:{penny.me}")
    assert entry["detail"]["total_cents"] == 9998
    forged = {"action": "invoice.issued", "target": f"invoice:{invoice}", "outcome": "success"}
    assert shop.admin.post("/api/v1/audit/events", forged).status_code == 422


def test_who_owes_something_that_is_due_is_reminded_and_the_story_tells_why(shop, penny):
    answer = penny.done("POST", f"/api/v1/invoices/{draft(penny, due_days=0)}/issue")
    label = answer.json()["label"]
    events = shop.admin.done("GET", f"/api/v1/events?after={position(answer) - 2}&limit=1").json()["items"]
    correlation = events[0]["correlation_id"]

    def story() -> list[str]:
        found = shop.admin.get(f"/api/v1/events?correlation={correlation}").json()["items"]
        return [event["type"] for event in found]

    eventually(lambda: "invoicing.InvoiceReminded" in story())
    assert story()[:3] == ["invoicing.InvoiceIssued", "invoicing.NumberTaken", "jobs.JobEnqueued"]
    letters = [letter.read_text() for letter in shop.outbox.glob("*.eml")]
    (letter,) = (letter for letter in letters if f"Invoice {label}: reminder 1" in letter)
    assert "wile@desert.example" in letter
    assert "99.98 EUR" in letter


def test_the_document_of_the_api_has_its_routes(shop):
    paths = shop.api.anybody.get("/openapi.json").json()["paths"]
    issue = paths["/api/v1/invoices/{invoice_id}/issue"]["post"]
    assert issue["x-permission"] == "invoice:issue within its scope"
    assert "invoice-not-draft" in issue["responses"]["409"]["description"]
    assert "invoices" in shop.api.anybody.get("/docs").text


def test_its_view_is_rebuilt_compared_and_verified_by_name(shop, penny):
    issued(penny)
    shop.done("projections", "rebuild", "invoices")
    compared = [line.split() for line in shop.done("projections", "diff", "invoices").splitlines()[1:]]
    assert {table: differing for table, _, _, differing in compared} == {"invoices": "0", "lines": "0", "parked": "0"}
    shop.done("projections", "cutover", "invoices")
    shop.done("projections", "verify", "invoices", "--all")
    _, at = issued(penny)
    assert penny.done("GET", "/api/v1/invoices?limit=1", params={"scope": "/acme/eu"}, **at_least(at)).json()["items"]


def test_its_events_are_exported_without_what_is_personal(shop, penny, tmp_path):
    issued(penny)
    shop.done("events", "export", "--types", "invoicing.*", "--format", "jsonl", "--out", str(tmp_path / "invoices"))
    (exported,) = (path for path in tmp_path.iterdir() if "manifest" not in path.name)
    lines = [json.loads(line) for line in exported.read_text().splitlines()]
    assert {line["type"] for line in lines} > {"invoicing.InvoiceDrafted", "invoicing.InvoiceIssued"}
    assert "Wile" not in exported.read_text()


def test_the_status_names_the_module_and_who_has_it_not(shop):
    told = json.loads(shop.done("status", "--json"))
    assert [(member["name"], member["is_here"]) for member in told["modules"]] == [("invoicing", True)]
    elsewhere = shop.call("status", MUNIMENT_MODULES="").stdout
    assert "invoicing (missing here; it joined by examples.invoicing:MODULE)" in elsewhere


def test_whoever_forgets_the_module_is_told(shop, penny):
    issued(penny)
    answer = shop.call("projections", "list", MUNIMENT_MODULES="")
    assert answer.returncode == 1
    assert "the module invoicing is missing, which joined by examples.invoicing:MODULE" in answer.stderr
    assert answer.stderr.count("\n") == 1


def test_the_operator_lists_and_voids_invoices_at_the_machine(shop, penny):
    invoice, _ = issued(penny)
    found = json.loads(shop.done("invoices", "list", "--scope", "/acme", "--status", "open", "--json"))["items"]
    assert invoice in [each["id"] for each in found]
    assert "Wile E. Coyote" in shop.done("invoices", "list", "--limit", "1")
    shop.done("invoices", "void", invoice, "--reason", "sent twice", "--as", "ada")
    refused = shop.call("invoices", "void", NEVER_HEARD_OF, "--reason", "sent twice")
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    entries = json.loads(shop.done("audit", "list", "--action", "invoice.voided", "--json"))["items"]
    assert entries[0]["actor"] == "operator:ada"


def running(shop: Shop) -> list[int]:
    """The version of invoicing's settings that each process runs with."""
    found = shop.admin.done("GET", "/api/v1/config/invoicing/instances").json()["items"]
    return [each["version"] for each in found]


def issued_now(clerk: Caller) -> tuple[str, int]:
    """An invoice, and in how many days it is due."""
    invoice, at = issued(clerk)
    told = clerk.done("GET", f"/api/v1/invoices/{invoice}", **at_least(at)).json()["invoice"]
    due, since = (datetime.fromisoformat(told[name]) for name in ("due_at", "issued_at"))
    return invoice, round((due - since) / timedelta(days=1))


def test_what_invoicing_may_choose_is_changed_while_it_runs_in_every_process(shop, penny):
    shown = shop.admin.done("GET", "/api/v1/config/invoicing").json()
    assert (shown["version"], shown["values"]["payment_term_days"]) == (0, 14)
    assert shop.admin.done("GET", "/api/v1/config/invoicing/schema").json()["properties"]["reminders"] == {
        "type": "integer", "description": "reminders of one invoice at most; 0 = none", "default": 3,
        "minimum": 0, "maximum": 10, "x-variable": "MUNIMENT_INVOICING_REMINDERS",
    }  # fmt: skip
    change = {"values": {"payment_term_days": 30}, "reason": "the summer"}
    changed = shop.admin.done("PATCH", "/api/v1/config/invoicing", change)
    assert {each["part"] for each in changed.json()["instances"]} == {"api", "follow", "scheduler", "worker"}
    eventually(lambda: running(shop) == [changed.json()["version"]] * 4)
    invoice, term_days = issued_now(penny)
    assert term_days == 30
    recorded = shop.admin.done("GET", f"/api/v1/events?stream={invoice}&types=invoicing.InvoiceDrafted").json()
    assert recorded["items"][0]["config_version"] == position(changed)


def test_a_choice_that_is_out_of_bounds_is_refused_by_its_name(shop):
    values = {"payment_term_days": 1000, "reminders": "three", "discount": 5}
    refused = shop.admin.ask("PUT", "/api/v1/config/invoicing", {"values": values})
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid-config")
    assert {each["field"] for each in refused.json()["errors"]} == {f"values.{name}" for name in values}
    taken = shop.admin.ask("PUT", "/api/v1/config-namespaces/invoicing", {"schema": {"type": "object"}})
    assert (taken.status_code, taken.json()["code"]) == (409, "namespace-reserved")


def test_the_operator_chooses_at_the_machine_and_the_next_invoice_has_it(shop, penny):
    shop.done("config", "set", "invoicing", "payment_term_days=45", "--reason", "the winter")
    assert shop.done("config", "get", "invoicing", "payment_term_days") == "45\n"
    listed = json.loads(shop.done("config", "list", "--json"))["items"]
    assert [each["kind"] for each in listed if each["namespace"] == "invoicing"] == ["module"]
    newest = shop.admin.done("GET", "/api/v1/config/invoicing").json()["version"]
    eventually(lambda: running(shop) == [newest] * 4)
    assert issued_now(penny)[1] == 45
    shop.done("config", "rollback", "invoicing", "0")
