"""Where ranks meet: ``MASTER_ADDR``, ``MASTER_PORT``, and the proxies that must not come in between."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from llmbench.doctor.checks.registry import check, fault
from llmbench.doctor.model import Finding, passed, skipped
from llmbench.doctor.network import (
    DEFAULT_PORT,
    OWN_PORTS,
    PROXIES,
    is_loopback,
    more_than_a_name,
    network,
    own_address,
    proxies_of,
    proxy_host,
    several_machines,
    without_password,
)
from llmbench.doctor.runner import Context

NO_MASTER = fault(
    "network.master.unresolved",
    "fail",
    "MASTER_ADDR does not resolve",
    cause="no rank finds the rendezvous, so init_process_group fails after its timeout ('gai error', 'cannot be "
    "retrieved')",
    fix="set MASTER_ADDR to an address, or mend the name lookup; without a job: unset MASTER_ADDR",
)
MASTER_URL = fault(
    "network.master.url",
    "fail",
    "MASTER_ADDR is more than a name",
    cause="it must be a name or an address alone: with a scheme, a port, spaces or quotes it does not resolve, and "
    "init_process_group fails",
    fix="export MASTER_ADDR=<name>, and the port as MASTER_PORT",
)
MASTER_LOOPBACK = fault(
    "network.master.loopback",
    "fail",
    "MASTER_ADDR is loopback in a job on several machines",
    cause="each machine looks for the rendezvous at itself: the ranks wait for each other until they time out",
    fix="on every machine, export MASTER_ADDR as the address that the machine of rank 0 has in the network",
)
MASTER_ELSEWHERE = fault(
    "network.master.elsewhere",
    "warn",
    "Rank 0 is here, but MASTER_ADDR is another machine",
    cause="the rendezvous is served by rank 0, here, while all ranks look for it at that address, which no interface "
    "here "
    "has: they time out, unless it is forwarded to this machine",
    fix="export MASTER_ADDR=<address>, an address of the machine of rank 0",
)
MASTER_UNREACHABLE = fault(
    "network.master.unreachable",
    "fail",
    "The machine of MASTER_ADDR cannot be reached",
    cause="there is no way to it, or a firewall drops the connection: this rank never joins, and all others wait for "
    "it",
    fix="ping <name>; open MASTER_PORT and the ports above 1024 between the machines",
)


@check("network.master", "MASTER_ADDR can be found", needs=("network.loopback",), follows=("network.dns",))
def master(context: Context) -> Iterator[Finding]:
    name = context.environ.get("MASTER_ADDR")
    if not name:
        yield skipped("MASTER_ADDR is not set")
        return
    found = network(context)
    answer = found.get("names", {}).get(name)
    if more_than_a_name(name):
        plain = re.sub(r"^\W*\w+://|^\W+|[\s:/\"'\]].*$", "", name)
        yield MASTER_URL.found(f"MASTER_ADDR={name!r} is not a name or an address alone", name=plain)
    elif answer is None or answer["error"]:
        reason = answer["error"] if answer else "the lookup did not end"
        yield NO_MASTER.found(f"MASTER_ADDR={name} does not resolve: {reason}")
    elif several_machines(context) and all(is_loopback(address) for address in answer["addresses"]):
        job = ", ".join(
            f"{v}={context.environ[v]}"
            for v in ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "SLURM_NNODES")
            if v in context.environ
        )
        yield MASTER_LOOPBACK.found(
            f"MASTER_ADDR={name} is {answer['addresses'][0]}, in a job of several machines ({job})"
        )
    elif context.environ.get("RANK") == "0" and not answer["ours"]:
        address = own_address(context)[1]
        evidence = (
            f"RANK=0 is here, but MASTER_ADDR={name} is {', '.join(answer['addresses'])}; this machine has {address}"
        )
        yield MASTER_ELSEWHERE.found(evidence, address=address)
    elif error := found.get("reach", {name: None}).get(name, "no answer in time"):
        yield MASTER_UNREACHABLE.found(
            f"MASTER_ADDR={name}, MASTER_PORT={context.environ.get('MASTER_PORT')}: {error}", name=name
        )
    else:
        yield passed(f"{name} is {', '.join(answer['addresses'])}")


BAD_PORT = fault(
    "network.port.invalid",
    "fail",
    "MASTER_PORT is no port",
    cause="init_process_group cannot use it, and fails at once",
    fix="export MASTER_PORT=29500, or any free port from 1024 to 65535",
    script="export MASTER_PORT=29500",
)
PRIVILEGED_PORT = fault(
    "network.port.privileged",
    "fail",
    "MASTER_PORT may only be used by root",
    cause="rank 0 cannot listen on it, and fails: 'Permission denied'",
    fix="export MASTER_PORT=29500, or any free port from 1024 to 65535",
    script="export MASTER_PORT=29500",
)
TAKEN_PORT = fault(
    "network.port.taken",
    "fail",
    "MASTER_PORT is in use",
    cause="rank 0 cannot listen on it, and fails: 'EADDRINUSE, address already in use'; or the ranks talk to another "
    "job",
    fix="export MASTER_PORT to a free port, or end the process that listens there: ss -ltnp 'sport = :<port>'",
    link="https://docs.pytorch.org/docs/stable/elastic/run.html",
)
TAKEN_DEFAULT = fault(
    "network.port.default",
    "warn",
    "The default port of torchrun is in use",
    cause="torchrun without --standalone or --rdzv-endpoint, and MASTER_PORT where it is not set, use 29500: they "
    "fail with "
    "'EADDRINUSE, address already in use'",
    fix="torchrun --standalone (any free port), or end the process that listens there: ss -ltnp 'sport = :29500'",
    link="https://docs.pytorch.org/docs/stable/elastic/run.html",
)
FEW_PORTS = fault(
    "network.port.few",
    "warn",
    "There are few ports for connections",
    cause="every connection needs one, and NCCL and gloo make many for each pair of ranks: 'Cannot assign requested "
    "address'",
    fix="sysctl -w net.ipv4.ip_local_port_range='32768 60999'",
)
_FEW = 2000


@check("network.port", "The port of the rendezvous is free", needs=("network.loopback",))
def port(context: Context) -> Iterator[Finding]:
    given = context.environ.get("MASTER_PORT")
    ports = {name: use for name, use in network(context).get("ports", {}).items() if int(name) not in OWN_PORTS}
    here = context.environ.get("RANK", "0") == "0"
    launched = "TORCHELASTIC_RUN_ID" in context.environ  # whose agent listens on it
    number = int(given) if given and given.strip().isdigit() else 0
    taken = ports.get(str(number))
    fine = True
    if given is not None and not 0 < number < 65536:
        fine = False
        yield BAD_PORT.found(f"MASTER_PORT={given!r} is no number from 1 to 65535")
    elif taken and here and not launched:
        fine = False
        if taken["process"] or "in use" in taken["error"]:
            by = taken["process"] or "a process of another user or container"
            yield TAKEN_PORT.found(f"MASTER_PORT={number} is in use by {by}: {taken['error']}", port=number)
        else:
            yield PRIVILEGED_PORT.found(f"MASTER_PORT={number}: {taken['error']}")
    default = ports.get(str(DEFAULT_PORT))
    if default and not given and "in use" in default["error"]:
        fine = False
        by = default["process"] or "a process of another user or container"
        yield TAKEN_DEFAULT.found(f"port {DEFAULT_PORT} is in use by {by}", port=DEFAULT_PORT)
    low, high = network(context).get("port_range") or (32768, 60999)
    if high - low < _FEW:
        fine = False
        yield FEW_PORTS.found(f"/proc/sys/net/ipv4/ip_local_port_range is {low} to {high}: {high - low + 1} ports")
    if fine:
        yield passed(
            f"port {number or DEFAULT_PORT} is {'in use by the launcher' if taken else 'free'}; {high - low + 1} for "
            f"connections"
        )


LOCAL_PROXY = fault(
    "network.proxy.local",
    "warn",
    "Connections to this machine go through a proxy",
    cause="no_proxy does not name localhost: TensorBoard, Ray, gRPC and others send what is meant for this machine "
    "to the proxy, "
    "and hang or fail",
    fix="export no_proxy=localhost,127.0.0.1,::1,<name> NO_PROXY=localhost,127.0.0.1,::1,<name>  (and the names of "
    "the other machines)",
    link="https://github.com/tensorflow/tensorboard/issues/5384",
)
NO_PROXY_HOST = fault(
    "network.proxy.unresolved",
    "warn",
    "The proxy cannot be found",
    cause="downloads of models, data and packages go through it, and fail",
    fix="correct <variable>, or unset it where there is no proxy",
)
BAD_PROXY = fault(
    "network.proxy.malformed",
    "warn",
    "A proxy variable is no URL",
    cause="it should be http://host:port: programs ignore it or fail ('Unsupported proxy scheme', 'Invalid proxy URL')",
    fix="export <variable>=http://<host>:<port>",
)
TWOPROXIES = fault(
    "network.proxy.differs",
    "warn",
    "Upper and lower case name different proxies",
    cause="some programs read one, some the other (curl reads only http_proxy, Python prefers it): half of them go "
    "astray",
    fix="export <lower> and <upper> to the same value",
)


@check("network.proxy", "Proxies are used where they should be", needs=("network.loopback",), follows=("network.dns",))
def proxy(context: Context) -> Iterator[Finding]:
    given = proxies_of(context)
    if not given:
        yield passed("no proxy variable is set")
        return
    found = [*_proxy_faults(context, given)]
    yield from found
    if not found:
        yield passed(", ".join(f"{name}={without_password(value)}" for name, value in given.items()))


def _proxy_faults(context: Context, given: Mapping[str, str]) -> Iterator[Finding]:
    names = network(context).get("names", {})
    shown = ", ".join(f"{name}={without_password(value)}" for name, value in given.items())
    exceptions = context.environ.get("no_proxy") or context.environ.get("NO_PROXY") or ""
    parts = {part.strip().lower() for part in exceptions.split(",")}
    if not parts & {"*", "localhost", "127.0.0.1", "127.0.0.0/8", "127.*", ".localhost"}:
        state = f"no_proxy={exceptions} lacks localhost" if exceptions else "no_proxy is not set"
        yield LOCAL_PROXY.found(f"{shown}, but {state}", name=network(context).get("host", ""))
    unresolved: dict[str, list[str]] = {}
    for variable, value in given.items():
        name = proxy_host(value)
        if name is None or not re.match(r"(https?|socks\w*)://", value):
            yield BAD_PROXY.found(f"{variable}={without_password(value)}", variable=variable)
        elif name in names and names[name]["error"]:
            unresolved.setdefault(name, []).append(variable)
    for name, variables in unresolved.items():
        evidence = f"the proxy {name} of {', '.join(variables)} does not resolve: {names[name]['error']}"
        yield NO_PROXY_HOST.found(evidence, variable=" and ".join(variables))
    for lower in (*PROXIES, "no_proxy"):
        one, other = context.environ.get(lower), context.environ.get(lower.upper())
        if one and other and one != other:
            evidence = f"{lower}={without_password(one)}, but {lower.upper()}={without_password(other)}"
            yield TWOPROXIES.found(evidence, lower=lower, upper=lower.upper())
