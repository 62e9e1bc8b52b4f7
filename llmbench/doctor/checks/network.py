"""What processes need to find each other: loopback and names. The rest of this area is in the files beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from llmbench.doctor.checks import collectives, infiniband, interfaces, rendezvous
from llmbench.doctor.checks.registry import check, fault
from llmbench.doctor.model import Finding, passed
from llmbench.doctor.network import (
    ANSWERS,
    DEFAULT_PORT,
    LOOKUP_LIMIT,
    is_loopback,
    master_name,
    network,
    own_address,
    proxies_of,
    proxy_host,
    several_machines,
)
from llmbench.doctor.runner import Context

OTHERS = (interfaces, infiniband, rendezvous, collectives)
"""Files of this area: their checks are registered as they are imported."""
_SLOW_LOOKUP = 1.5

LOOPBACK_DOWN = fault(
    "network.loopback.down",
    "fail",
    "The loopback interface is down",
    cause="the loopback interface is down: torchrun, every process group and many libraries connect to 127.0.0.1",
    fix="ip link set lo up",
)
LOOPBACK_ADDRESS = fault(
    "network.loopback.address",
    "fail",
    "The loopback interface has lost its address",
    cause="lo is up, but 127.0.0.1 is not its address: torchrun, every process group and many libraries connect to it",
    fix="ip addr add 127.0.0.1/8 dev lo",
)
LOOPBACK_BLOCKED = fault(
    "network.loopback.blocked",
    "fail",
    "Connections to 127.0.0.1 do not work",
    cause="a firewall, a sandbox or used-up ports forbid connections of this machine to itself: torchrun and every "
    "process "
    "group fail or hang",
    fix="iptables -I INPUT -i lo -j ACCEPT (nft list ruleset shows what drops it); ss -s shows how many ports are in "
    "use",
)


@check("network.loopback", "Loopback works", deadline=20, needs=("python.starts",))
def loopback(context: Context) -> Iterator[Finding]:
    """Asks all of the network at once; the others of this area read what it found."""
    outcome = context.probe("network", _questions(context))
    answer = ANSWERS[context.processes] = outcome.answer
    links = {link["name"]: link for link in answer.get("interfaces", [])}
    hardware = {name: {"up": link["up"], "mtu": link["mtu"]} for name, link in links.items() if link["physical"]}
    context.facts["network"] = {"host": answer.get("host"), "interfaces": hardware}
    lo = links.get("lo", {})
    if "loopback" not in answer:
        yield LOOPBACK_BLOCKED.found(f"connecting to 127.0.0.1 {outcome.ending}")
    elif answer["loopback"] and lo and not lo["up"]:
        yield LOOPBACK_DOWN.found(
            f"127.0.0.1 cannot be reached: {answer['loopback']}; the loopback interface lo is down"
        )
    elif answer["loopback"] and lo and not (lo["address"] or "").startswith("127."):
        yield LOOPBACK_ADDRESS.found(
            f"127.0.0.1 cannot be reached: {answer['loopback']}; lo has address {lo['address']}"
        )
    elif answer["loopback"]:
        yield LOOPBACK_BLOCKED.found(f"127.0.0.1 cannot be reached: {answer['loopback']}")
    else:
        six = "::1 too" if answer.get("loopback6", "") is None else "not over ::1, which nothing needs"
        yield passed(f"a byte came back over 127.0.0.1; {six}")


def _questions(context: Context) -> dict[str, Any]:
    master = master_name(context)
    port = context.environ.get("MASTER_PORT", "")
    proxies = [host for host in (proxy_host(value) for value in proxies_of(context).values()) if host]
    ours = context.environ.get("RANK", "0") == "0"
    ports = [int(port)] if port.isdigit() and 0 < int(port) < 65536 else []
    return {
        "names": [*([master] if master else []), *proxies],
        "ports": [*ports, DEFAULT_PORT],
        "reach": [master, ports[0]] if master and ports and not ours else None,
        "limit": LOOKUP_LIMIT * context.patience,
    }


_MAP_NAME = (
    "echo '<address> <name>' >> /etc/hosts; until then: torchrun --local-addr 127.0.0.1, "
    "or export GLOO_SOCKET_IFNAME=<interface>"
)
UNRESOLVED = fault(
    "network.host.unresolved",
    "fail",
    "The host name does not resolve",
    cause="torchrun gives it to the ranks as the address to meet at: they wait a minute and fail ('gai error', 'client "
    "socket has timed out'); gloo falls back to loopback, which other machines cannot reach",
    fix=_MAP_NAME,
    link="https://github.com/pytorch/pytorch/issues/150532",
)
SILENT = fault(
    "network.host.silent",
    "fail",
    "The lookup of the host name does not end",
    cause="the name servers do not answer, and /etc/hosts does not know the name: gloo and torchrun look it up at "
    "every "
    "start, wait, and then fail",
    fix=_MAP_NAME,
    link="https://github.com/pytorch/pytorch/issues/150532",
)
SLOW = fault(
    "network.host.slow",
    "warn",
    "The lookup of the host name is slow",
    cause="the DNS server is slow, or the first one does not answer: everything that looks the name up starts slowly",
    fix="echo '<address> <name>' >> /etc/hosts",
)
ELSEWHERE = fault(
    "network.host.elsewhere",
    "fail",
    "The host name resolves to another machine",
    cause="no interface of this machine has that address (a stale line in /etc/hosts, or a DNS entry of an earlier "
    "lease): "
    "torchrun tells the ranks to meet there, and they wait until they time out; gloo uses loopback instead",
    fix="getent hosts <name> shows it; correct its line in /etc/hosts to <address>; until then: torchrun "
    "--local-addr 127.0.0.1",
    link="https://github.com/pytorch/pytorch/issues/79388",
)
NAME_ON_LOOPBACK = fault(
    "network.host.loopback",
    "warn",
    "The host name resolves to a loopback address, in a job on several machines",
    cause="gloo and torchrun tell this address to the other machines, which cannot reach it: the ranks time out",
    fix="export GLOO_SOCKET_IFNAME=<interface>, or map <name> to its address in the network (<address>) in /etc/hosts",
    link="https://docs.pytorch.org/docs/stable/distributed.html#choosing-the-network-interface-to-use",
)
BAD_NAME = fault(
    "network.host.name",
    "fail",
    "The host name is no valid name",
    cause="Python cannot encode it for a lookup (a part is empty, longer than 63 characters or not ASCII): torchrun "
    "fails "
    "in socket.getfqdn",
    fix="hostnamectl set-hostname node-1 (letters, digits and hyphens); docker run --hostname node-1",
)


@check("network.host", "The host name resolves", needs=("network.loopback",), follows=("network.dns",))
def host(context: Context) -> Iterator[Finding]:
    found = network(context)
    name = found.get("host", "?")
    answer = found.get("names", {}).get(name)
    interface, address = own_address(context)
    texts = {"name": name, "interface": interface, "address": address}
    if answer is None:
        limit = LOOKUP_LIMIT * context.patience
        yield SILENT.found(f"the lookup of host name {name} did not end within {limit:.0f} s", **texts)
    elif answer["error"] and _unusual(name):
        yield BAD_NAME.found(f"host name {name!r}: {answer['error']}")
    elif answer["error"]:
        after = f" (after {answer['seconds']:.1f} s)"
        yield UNRESOLVED.found(
            f"host name {name} does not resolve: {answer['error']}{after}; /etc/hosts has no line for it", **texts
        )
    elif not answer["ours"]:
        yield ELSEWHERE.found(
            f"host name {name} resolves to {', '.join(answer['addresses'])}, which no interface here has "
            f"({interface} has {address})",
            **texts,
        )
    elif several_machines(context) and all(is_loopback(given) for given in answer["addresses"]):
        ranks = f"WORLD_SIZE={context.environ.get('WORLD_SIZE', '?')}"
        yield NAME_ON_LOOPBACK.found(
            f"host name {name} resolves to {answer['addresses'][0]}, a loopback address, in a job of several "
            f"machines ({ranks})",
            **texts,
        )
    elif answer["seconds"] > _SLOW_LOOKUP * context.patience:
        yield SLOW.found(f"the lookup of host name {name} took {answer['seconds']:.1f} s", **texts)
    else:
        yield passed(f"{name} is {', '.join(answer['addresses'])}")


def _unusual(name: str) -> bool:
    return not name.isascii() or any(not 0 < len(label) < 64 for label in name.split("."))


NO_LOCALHOST = fault(
    "network.localhost.unresolved",
    "fail",
    "localhost does not resolve",
    cause="torchrun --standalone and many libraries meet at localhost: they fail or hang",
    fix="echo '127.0.0.1 localhost' >> /etc/hosts",
)
FOREIGN_LOCALHOST = fault(
    "network.localhost.elsewhere",
    "fail",
    "localhost is not this machine",
    cause="torchrun --standalone and many libraries meet at localhost, and now talk to another machine: they hang",
    fix="correct its line in /etc/hosts to: 127.0.0.1 localhost",
)
ONLY_SIX = fault(
    "network.localhost.version6",
    "fail",
    "localhost is only ::1, but IPv6 does not work",
    cause="torchrun --standalone and many libraries meet at localhost: they fail to connect",
    fix="echo '127.0.0.1 localhost' >> /etc/hosts, or sysctl -w net.ipv6.conf.lo.disable_ipv6=0",
)


@check("network.localhost", "localhost is this machine", needs=("network.loopback",), follows=("network.dns",))
def localhost(context: Context) -> Iterator[Finding]:
    answer = network(context).get("names", {}).get("localhost")
    if answer is None or answer["error"]:
        reason = answer["error"] if answer else "the lookup did not end"
        yield NO_LOCALHOST.found(f"localhost does not resolve: {reason}; /etc/hosts has no line for it")
    elif foreign := [address for address in answer["addresses"] if not is_loopback(address)]:
        yield FOREIGN_LOCALHOST.found(f"localhost resolves to {', '.join(foreign)}")
    elif answer["addresses"] == ["::1"] and network(context).get("loopback6"):
        yield ONLY_SIX.found(f"localhost resolves to ::1 only: {network(context)['loopback6']}")
    else:
        yield passed(f"localhost is {', '.join(answer['addresses'])}")


DEAD_DNS = fault(
    "network.dns.silent",
    "warn",
    "A name server does not answer",
    cause="every name that /etc/hosts does not have is looked up in vain for 5 to 20 s: downloads, and everything that "
    "looks up the host name, start slowly or fail",
    fix="put a name server that answers first in /etc/resolv.conf, or open UDP port 53 to <server>",
)
REFUSED_DNS = fault(
    "network.dns.refused",
    "warn",
    "Nobody listens at the name server's address",
    cause="the local resolver is not running, so no name outside /etc/hosts resolves: downloads and other machines "
    "are not found",
    fix="systemctl restart systemd-resolved (or what should listen at <server>), or put another name server in "
    "/etc/resolv.conf",
)
DANGLING_DNS = fault(
    "network.dns.dangling",
    "warn",
    "/etc/resolv.conf is a link that leads nowhere",
    cause="no name server is known, so no name outside /etc/hosts resolves: downloads and other machines are not found",
    fix="start what writes it (systemctl start systemd-resolved), or put a file with a nameserver line in its place",
)


@check("network.dns", "Name servers answer", needs=("network.loopback",))
def dns(context: Context) -> Iterator[Finding]:
    """Asks each name server itself; none at all is how machines without a network are set up."""
    found = network(context)
    settings, answers = found.get("resolver", {}), found.get("servers", {})
    servers = settings.get("servers", [])
    if not settings.get("exists", True) and settings.get("link"):
        yield DANGLING_DNS.found(f"/etc/resolv.conf is a link to {settings['link']}, which does not exist")
        return
    states = {server: answers.get(server, "silent") for server in servers}
    if "use-vc" in settings.get("options", []) or not servers:
        yield passed(f"/etc/resolv.conf: {len(servers)} name servers, not asked")
        return
    silent = [server for server, state in states.items() if state == "silent"]
    hit = found.get("host")
    answer = found.get("names", {}).get(hit)
    if states[servers[0]] == "silent":
        took = _how_long(answer, hit, LOOKUP_LIMIT * context.patience)
        others = "" if len(silent) == len(servers) else f"; {len(servers) - len(silent)} after it answer"
        yield DEAD_DNS.found(
            f"name server {', '.join(silent)} of /etc/resolv.conf does not answer within 2 s{others}; {took}",
            verdict="fail" if answer is None or answer["error"] else None,
            server=silent[0],
        )
    elif all(state == "refused" for state in states.values()):
        yield REFUSED_DNS.found(
            f"name server {', '.join(servers)} of /etc/resolv.conf: connection refused", server=servers[0]
        )
    else:
        shown = ", ".join(f"{server} {state or 'answers'}" for server, state in states.items())
        search = f"; search {' '.join(settings['search'])}" if settings.get("search") else ""
        yield passed(f"{shown}{search}")


def _how_long(answer: Mapping[str, Any] | None, name: str | None, limit: float) -> str:
    if answer is None:
        return f"the lookup of this host's name ({name}) did not end within {limit:.0f} s"
    return f"the lookup of this host's name ({name}) took {answer['seconds']:.1f} s"
