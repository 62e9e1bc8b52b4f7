"""What processes need to find each other: loopback, the host name, the rendezvous, a collective."""

from __future__ import annotations

from collections.abc import Iterator

from llmbench.doctor.checks.registry import check
from llmbench.doctor.model import Finding, failure, passed, skipped, warning
from llmbench.doctor.runner import Context

_SLOW_LOOKUP = 2.0


@check("network.loopback", "Loopback works", deadline=12, needs=("python.starts",))
def loopback(context: Context) -> Iterator[Finding]:
    """Asks all of the network at once; the others of this area read what it found."""
    master = context.environ.get("MASTER_ADDR")
    outcome = context.probe("network", {"master": master})
    found = context.facts["network"] = outcome.answer
    if "loopback" not in found:
        yield failure(
            f"connecting to 127.0.0.1 {outcome.ending}",
            "the loopback interface does not work",
            "ip link set lo up",
        )
    elif found["loopback"]:
        yield failure(
            f"127.0.0.1 cannot be reached: {found['loopback']}",
            "the loopback interface is down: torchrun and every process group use it",
            "ip link set lo up",
        )
    else:
        yield passed("a byte came back over 127.0.0.1")


@check("network.host", "The host name resolves", needs=("network.loopback",))
def host(context: Context) -> Iterator[Finding]:
    found = context.facts["network"]
    name, answer = found.get("host", "?"), found.get("name")
    hosts = f'echo "127.0.0.1 {name}" >> /etc/hosts  (several machines: its address in the network)'
    if answer is None:
        yield warning(
            f"the lookup of host name {name} did not end within 10 s",
            "the DNS server does not answer: gloo and others look the name up, and start slowly or not at all",
            hosts,
        )
    elif answer["error"]:
        yield warning(
            f"host name {name} does not resolve: {answer['error']} (after {answer['seconds']:.1f} s)",
            "gloo and others look the name up to choose an address",
            hosts,
        )
    elif answer["seconds"] > _SLOW_LOOKUP:
        yield warning(
            f"the lookup of host name {name} took {answer['seconds']:.1f} s",
            "the DNS server is slow: everything that looks the name up starts slowly",
            hosts,
        )
    elif _alone_on_loopback(context, answer["addresses"]):
        yield warning(
            f"host name {name} resolves to {answer['addresses'][0]}, a loopback address",
            "gloo tells this address to the other machines, which cannot reach it",
            f"map {name} to its address in the network in /etc/hosts, or export GLOO_SOCKET_IFNAME",
        )
    else:
        yield passed(f"{name} is {', '.join(answer['addresses'])}")


def _alone_on_loopback(context: Context, addresses: list[str]) -> bool:
    """Only matters to a job on several machines: elsewhere Debian's 127.0.1.1 is the normal state."""
    master = context.environ.get("MASTER_ADDR", "")
    ranks = context.environ.get("WORLD_SIZE", "")
    several = ranks not in ("", "1") and master not in ("", "localhost") and not master.startswith("127.")
    return several and all(address.startswith("127.") or address == "::1" for address in addresses)


@check("network.master", "MASTER_ADDR resolves", needs=("network.loopback",))
def master(context: Context) -> Iterator[Finding]:
    name = context.environ.get("MASTER_ADDR")
    if not name:
        yield skipped("MASTER_ADDR is not set")
        return
    answer = context.facts["network"].get("master")
    if answer is None or answer["error"]:
        reason = answer["error"] if answer else "the lookup did not end"
        yield failure(
            f"MASTER_ADDR={name} does not resolve: {reason}",
            "no rank finds the rendezvous, so init_process_group fails",
            "set MASTER_ADDR to an address, or mend the name lookup; without a job: unset MASTER_ADDR",
        )
    else:
        yield passed(f"{name} is {', '.join(answer['addresses'])}")


@check(
    "network.allreduce", "Two processes all-reduce with gloo", deadline=60, needs=("torch.import", "network.loopback")
)
def allreduce(context: Context) -> Iterator[Finding]:
    if not context.facts["torch"].get("gloo"):
        yield skipped("this build of torch has no gloo")
        return
    world_size = 4 if context.deep else 2
    left_over = dict.fromkeys(("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "LOCAL_RANK"))
    outcome = context.torch_probe("allreduce", {"world_size": world_size, "timeout": 30}, left_over)
    expected = str(float(sum(range(1, world_size + 1))))
    answers = outcome.answer.get("answers")
    if answers == [expected] * world_size:
        yield passed(f"{world_size} ranks, sum {expected} as expected, {outcome.answer['seconds']:.1f} s")
        return
    wrong = next((answer for answer in answers or [] if answer != expected), "") or outcome.ending
    interface = context.environ.get("GLOO_SOCKET_IFNAME")
    if interface:
        yield failure(
            f"gloo with GLOO_SOCKET_IFNAME={interface}: {wrong}",
            "GLOO_SOCKET_IFNAME must be the name of an interface of this machine, such as lo or eth0",
            "unset GLOO_SOCKET_IFNAME, or set it to a name that `ip -brief link` shows",
        )
        return
    yield failure(
        f"{world_size}-process gloo all-reduce: {wrong}",
        "processes of this machine cannot form a group: distributed training fails",
        "look at the host name in /etc/hosts and at firewalls, or export GLOO_SOCKET_IFNAME=lo",
    )
