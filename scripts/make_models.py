"""Writes the Verifpal models of docs/model/ from its two templates, and with ``--check VERIFPAL`` lets that program
judge them, and Spin its own: exit status 1 if a verdict is not the one that is expected.

A model is a template with assumptions (a primitive is broken, a key is known to the attacker) and queries, each with
the answer that it must have. A model that must be attacked says that the attacker is able to do something at all.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import Final

FOLDER: Final = Path(__file__).resolve().parent.parent / "docs" / "model"

HOLDS: Final = "holds"
ATTACK: Final = "attack"

SECRET_I: Final = "confidentiality? from_i"
SECRET_R: Final = "confidentiality? from_r"
FROM_I: Final = "authentication? Initiator -> Responder: record_i"
FROM_R: Final = "authentication? Responder -> Initiator: record_r"
WHO_DIALS: Final = "confidentiality? i_ed_pk"
OFFER: Final = "authentication? Initiator -> Responder: offer[\n\t\tprecondition[Responder -> Initiator: m4]\n\t]"
INVITED: Final = "confidentiality? secret"
EVERYTHING: Final = (SECRET_I, SECRET_R, FROM_I, FROM_R, WHO_DIALS)

BEFORE: Final = "confidentiality? before"
ROTATED: Final = "authentication? Initiator -> Responder: record_1"
ROTATION: Final = (SECRET_I, ROTATED)

X25519: Final = {"x_i_leaks": "\tleaks x_i\n", "x_r_leaks": "\tleaks x_r\n"}
"""Whoever computes discrete logarithms has the private keys as soon as the public ones are on the wire."""
MLKEM: Final = {"mlkem": "[weak]"}
ED25519: Final = {"ed25519": "[forgeable]"}
MLDSA: Final = {"mldsa": "[forgeable]"}

PSK: Final = {"psk": "psk", "responder_psk": "\tknows private psk\n", "initiator_psk": "\tknows private psk\n"}
"""A pre-shared key in root_0. Without one there is a value that everybody knows."""
THIRD_KEM: Final = {
    "third_i": "\tgenerates dk_third\n\tek_third = PUBKEY(dk_third)\n",
    "third_r": "\tgenerates coins_third\n\tss_third_r, ct_third = KEM_ENCAP(ek_third, coins_third)\n",
    "third_opened": "\tss_third_i = KEM_DECAP(dk_third, ct_third)\n",
    "ek_third": ", ek_third",
    "ct_third": ", ct_third",
    "eks": "CONCAT(ek, ek_third)",
    "cts": "CONCAT(ct, ct_third)",
    "ss_third_r": ", ss_third_r",
    "ss_third_i": ", ss_third_i",
}
"""One more KEM beside ML-KEM and X25519."""
INVITATION: Final = {
    "invitation_made": "\tknows private secret\n\tknows public l_invitation\n"
    "\tinvitation_r = HKDF(HKDF(r_id, secret, nil), nil, l_invitation)\n",
    "invitation_shown": "\tknows private secret\n\tknows public l_invitation\n"
    "\tmac_i = MAC(HKDF(HKDF(r_id, secret, nil), nil, l_invitation), CONCAT(th2_i, i_id))\n",
    "mac_i": ", mac_i",
    "mac3": ", mac3",
}
"""I shows a secret that R has given it. What R finds the invitation by follows from the secret too, and is left out."""
JOINS: Final = INVITATION | {
    "known": "",
    "membership": "the invitation",
    "member": "\t_ = ASSERT(MAC(invitation_r, CONCAT(th2_r, HASH(ed_pk3, ml_pk3))), mac3)?\n",
}
"""R knows nothing of I but that."""
SEEN: Final = {"invitation_made": INVITATION["invitation_made"] + "\tleaks secret\n"}
"""The attacker has read the token on its way from R to I."""

_PARTS: Final = {
    "attacker": "active",
    "psk": "nil",
    "eks": "ek",
    "cts": "ct",
    "known": "Initiator -> Responder: [i_id]\n",
    "membership": "the allowlist",
    "member": "\t_ = ASSERT(HASH(ed_pk3, ml_pk3), i_id)?\n",
}


def _later(phase_1: Iterable[str]) -> dict[str, str]:
    """The attacker learns these, of I and R, when everything is over."""
    owners = zip(("Initiator", "Responder"), phase_1, strict=True)
    leaks = [f"principal {owner}[\n\tleaks {keys}\n]\n" for owner, keys in owners]
    return {"later": "\n// Later.\nphase[1]\n\n" + "\n".join(leaks)}


@dataclass(frozen=True)
class Model:
    """One file: the template, what is assumed, and what must come of it."""

    name: str
    template: str
    assumes: str
    answers: dict[str, str]
    parts: dict[str, str] = field(default_factory=dict)

    def text(self) -> str:
        """The model as Verifpal reads it."""
        template = Template((FOLDER / f"{self.template}.template").read_text())
        body = template.substitute(dict.fromkeys(template.get_identifiers(), "") | _PARTS | self.parts)
        queries = "".join(f"\t{query}\n" for query in self.answers)
        said = "".join(f"//   {answer:<6} {query.split('[')[0]}\n" for query, answer in self.answers.items())
        return (
            f"// {self.assumes}\n// Written by scripts/make_models.py from {self.template}.template. One session."
            f" Expected:\n{said}\n{body.rstrip()}\n\nqueries[\n{queries}]\n"
        )

    @property
    def code(self) -> str:
        """What Verifpal's --result-code prints if every answer is the expected one."""
        return "".join(f"{query[0]}{answer == ATTACK:d}" for query, answer in self.answers.items())


def _all(answer: str, queries: Iterable[str]) -> dict[str, str]:
    return dict.fromkeys(queries, answer)


MODELS: Final = (
    Model("handshake", "handshake", "Nothing is broken.", _all(HOLDS, (*EVERYTHING, OFFER))),
    Model("mlkem-broken", "handshake", "ML-KEM is broken.", _all(HOLDS, EVERYTHING), MLKEM),
    Model("x25519-broken", "handshake", "X25519 is broken.", _all(HOLDS, EVERYTHING), X25519),
    Model("ed25519-broken", "handshake", "Ed25519 is broken.", _all(HOLDS, EVERYTHING), ED25519),
    Model("mldsa-broken", "handshake", "ML-DSA is broken.", _all(HOLDS, EVERYTHING), MLDSA),
    Model(
        "curves-broken",
        "handshake",
        "X25519 and Ed25519 are broken, as by a quantum computer that is there while the handshake runs.",
        _all(HOLDS, EVERYTHING),
        X25519 | ED25519,
    ),
    Model("lattices-broken", "handshake", "ML-KEM and ML-DSA are broken.", _all(HOLDS, EVERYTHING), MLKEM | MLDSA),
    Model(
        "kems-broken",
        "handshake",
        "Control: ML-KEM and X25519 are broken, and nothing is left of secrecy.",
        _all(ATTACK, EVERYTHING),
        MLKEM | X25519,
    ),
    Model(
        "signatures-broken",
        "handshake",
        "Control: Ed25519 and ML-DSA are broken, and anybody is anybody.",
        _all(ATTACK, EVERYTHING),
        ED25519 | MLDSA,
    ),
    Model(
        "identities-stolen-later",
        "handshake",
        "Forward secrecy: every long-term key is stolen, and X25519 broken, after everything was recorded.",
        _all(HOLDS, (SECRET_I, SECRET_R)),
        _later(("i_ed, i_ml, x_i", "r_ed, r_ml, x_r")),
    ),
    Model(
        "kems-broken-later",
        "handshake",
        "Control of forward secrecy: ML-KEM and X25519 are broken after everything was recorded.",
        _all(ATTACK, (SECRET_I, SECRET_R)),
        {"mlkem": "[weak from phase 1]"} | _later(("x_i", "x_r")),
    ),
    Model(
        "initiator-stolen",
        "handshake",
        "Key compromise impersonation: with I's own keys the thief passes for I, but not for R in front of I.",
        {SECRET_I: HOLDS, FROM_R: HOLDS, SECRET_R: ATTACK, FROM_I: ATTACK},
        {"initiator_leaks": "\tleaks i_ed, i_ml\n"},
    ),
    Model(
        "responder-stolen",
        "handshake",
        "Key compromise impersonation: with R's own keys the thief passes for R, but not for I in front of R.",
        {FROM_I: HOLDS, SECRET_I: ATTACK},
        {"responder_leaks": "\tleaks r_ed, r_ml\n"},
    ),
    Model(
        "kems-broken-with-psk",
        "handshake",
        "ML-KEM and X25519 are broken, and both ends have a pre-shared key: who dials is no secret any more.",
        _all(HOLDS, (SECRET_I, SECRET_R, FROM_I, FROM_R)) | {WHO_DIALS: ATTACK},
        MLKEM | X25519 | PSK,
    ),
    Model(
        "kems-broken-later-with-third",
        "handshake",
        "There is a third KEM; ML-KEM and X25519 are broken after everything was recorded.",
        _all(HOLDS, (SECRET_I, SECRET_R)),
        {"mlkem": "[weak from phase 1]"} | THIRD_KEM | _later(("x_i", "x_r")),
    ),
    Model(
        "invitation",
        "handshake",
        "I becomes a peer by an invitation, of which R alone knows besides; nothing is broken.",
        _all(HOLDS, (*EVERYTHING, INVITED)),
        JOINS,
    ),
    Model(
        "invitation-overheard",
        "handshake",
        "The same, and one who has seen the token only listens.",
        _all(HOLDS, EVERYTHING),
        {"attacker": "passive"} | JOINS | SEEN,
    ),
    Model(
        "invitation-seen",
        "handshake",
        "Control: who has seen the token, and comes first, joins in the place of I; but he is not R in front of I.",
        {SECRET_I: HOLDS, FROM_R: HOLDS, SECRET_R: ATTACK, FROM_I: ATTACK},
        JOINS | SEEN,
    ),
    Model(
        "invitation-used",
        "handshake",
        "I has joined and shows the token once more, which by now everybody has seen.",
        _all(HOLDS, EVERYTHING),
        INVITATION | SEEN,
    ),
    Model("rotation", "rotation", "A rotation; nothing is broken.", _all(HOLDS, (BEFORE, *ROTATION))),
    Model(
        "rotation-heals",
        "rotation",
        "A thief of root_0 who only listens is shut out by the next rotation.",
        {BEFORE: ATTACK, SECRET_I: HOLDS},
        {"attacker": "passive", "root_0_leaks": "\tleaks root_0\n"},
    ),
    Model(
        "rotation-heals-one-kem",
        "rotation",
        "The same, and X25519 is broken.",
        {BEFORE: ATTACK, SECRET_I: HOLDS},
        {"attacker": "passive", "root_0_leaks": "\tleaks root_0\n"} | X25519,
    ),
    Model(
        "rotation-thief-on-the-wire",
        "rotation",
        "Control: a thief of root_0 who sits between both ends stays there, since rotations are not signed.",
        _all(ATTACK, (BEFORE, *ROTATION)),
        {"root_0_leaks": "\tleaks root_0\n"},
    ),
    Model(
        "rotation-stolen-later",
        "rotation",
        "Forward secrecy: root_1 is stolen, and what epoch 0 carried stays secret.",
        {BEFORE: HOLDS, SECRET_I: ATTACK},
        _later(("root_1_i", "root_1_r")),
    ),
)


SLOW: Final = ("responder-stolen", "kems-broken-later-with-third", "handshake")
"""They take half of all the time together, in this order."""

EXPLORED: Final = (
    ("takeover", "-DDIALS=1", "-DANYHOW=3"),
    ("takeover", "-DDIALS=3"),
    ("takeover", "-DDIALS=2"),
    ("session",),
)
"""Spin's models, and how they are built."""


def write() -> None:
    """Every model into its file."""
    for model in MODELS:
        (FOLDER / f"{model.name}.vp").write_text(model.text())


def judge(verifpal: str, model: Model) -> bool:
    """Whether Verifpal says of a file what it must; prints a line."""
    began = time.monotonic()
    command = [verifpal, "verify", "--sessions", "1", "--quiet", "--result-code", str(FOLDER / f"{model.name}.vp")]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "NO_COLOR": "1"})
    good = done.returncode == 0 and done.stdout.strip() == model.code
    verdict = "as expected" if good else f"expected {model.code}, got {done.stdout.strip() or done.stderr}"
    print(f"{model.name:<32} {verdict}, {time.monotonic() - began:.1f} s", flush=True)
    return good


def explore(name: str, *flags: str) -> bool:
    """Whether Spin finds nothing wrong in any state of a model; prints a line."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        for command in (
            ["spin", "-a", *flags, str(FOLDER / f"{name}.pml")],
            ["cc", "-O2", "-w", "-DSAFETY", "-o", "pan", "pan.c"],
            ["./pan", "-m100000"],
        ):
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
            if done.returncode != 0:
                break
    good = done.returncode == 0 and "errors: 0" in done.stdout
    states = re.search(r"(\d+) states, stored", done.stdout)
    verdict = f"as expected, {states[1]} states" if good and states else f"failed: {done.stdout}{done.stderr}"
    print(f"{' '.join((name, *flags)):<32} {verdict}, {time.monotonic() - began:.1f} s", flush=True)
    return good


def check(verifpal: str) -> bool:
    """The same of all models, as many at once as there are CPUs, those first that take long."""
    began = time.monotonic()
    slow = [model for name in SLOW for model in MODELS if model.name == name]
    ordered = [*slow, *(model for model in MODELS if model not in slow)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        judged = [pool.submit(judge, verifpal, model) for model in ordered[: len(slow)]]
        judged += [pool.submit(explore, *words) for words in EXPLORED]
        judged += [pool.submit(judge, verifpal, model) for model in ordered[len(slow) :]]
        good = all(each.result() for each in judged)
    print(f"{len(judged)} models, {time.monotonic() - began:.0f} s")
    return good


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", metavar="VERIFPAL", help="judge the files with this program instead of writing them")
    arguments = parser.parse_args()
    if arguments.check is None:
        write()
    elif not check(arguments.check):
        sys.exit(1)


if __name__ == "__main__":
    main()
