"""Secrets in a real HashiCorp Vault or OpenBao, over TLS, as the whole platform uses them."""

import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.e2e.platform import eventually
from tests.e2e.secretive import Mailbox, Secretive, mark
from tests.muniment_client.real_vault import program, real_vault

pytestmark = [pytest.mark.vault, pytest.mark.timeout(240)]


def test_a_secret_of_a_real_vault_is_used_rotated_and_kept_while_it_is_sealed():
    found = program()
    if found is None:
        pytest.skip("neither vault nor bao is installed, and MUNIMENT_TEST_VAULT names none")
    folder = Path(tempfile.mkdtemp(prefix="muniment-"))
    passwords = {name: mark(name) for name in ("first", "second")}
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        mailbox = stack.enter_context(Mailbox())
        (folder / "vault").mkdir()
        vault = stack.enter_context(real_vault(found, folder / "vault", tls=True))
        vault.put("platform/mail", {"value": mailbox.url(passwords["first"]), "comment": "for the office"})
        token = vault.token(("secret/data/platform/",), 40)
        platform = Secretive(folder, vault, token, {}, ca=str(folder / "vault" / "vault-ca.pem"))
        stack.callback(platform.close)
        platform.start()

        mailbox.password = passwords["first"]
        answer = platform.changes(smtp_url="secret://platform/mail", mail_from="office@engine.example")
        assert {each["state"] for each in answer.json()["instances"]} == {"applied"}
        arrives(platform, mailbox, "first")

        mailbox.password = passwords["second"]
        vault.put("platform/mail", {"value": mailbox.url(passwords["second"])})
        arrives(platform, mailbox, "second")

        refused = platform.changes(smtp_url="secret://elsewhere/mail")
        assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "values.smtp_url")
        assert "policies don't let it read this" in refused.text

        # longer than the token lives unless it is renewed
        eventually(lambda: vault.call("POST", "auth/token/lookup", {"token": token})["data"].get("last_renewal"))
        vault.seal()
        (reason,) = eventually(platform.reasons)
        assert reason.startswith("secrets: 1 can't be fetched; the last good values stand for 3")
        arrives(platform, mailbox, "sealed")
        platform.asks_for_everything()
        assert platform.found(passwords | {"token": token}) == []


def arrives(platform, mailbox, name):
    platform.sends(name)
    eventually(lambda: f"{name}@verification.example" in mailbox.letters)
