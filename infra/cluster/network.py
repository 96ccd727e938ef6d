"""The local node's network: a bridge for its own address, a route that keeps the service range here, a fence around pods.

What it changes on the machine it notes first, so that `remove` puts back what was.
"""

from __future__ import annotations

import json
import shlex
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

from infra.cluster.process import attempt, run
from infra.cluster.progress import Phase
from infra.cluster.settings import NAME, NODE_ADDRESS, NODE_BRIDGE, POD_BRIDGE, POD_GATEWAY, POD_RANGE, SERVICE_RANGE, Places
from workflows.errors import BadInput, Problem

FENCE = "COUNTERSIGN"
CNI_RESULTS = Path("/var/lib/cni/results")
# What a node needs; and what kubelet sets as it starts, which is listed so that it can be put back.
NEEDED = {"net.ipv4.ip_forward": "1", "net.bridge.bridge-nf-call-iptables": "1"}
TOUCHED = (
    "vm.overcommit_memory",
    "vm.panic_on_oom",
    "kernel.panic",
    "kernel.panic_on_oops",
    "kernel.keys.root_maxkeys",
    "kernel.keys.root_maxbytes",
)
TABLES = ("filter", "nat", "mangle")
# Chains of kube-proxy, kubelet and the fence. A rule elsewhere that jumps to one of them is theirs as well.
OURS = ("KUBE-", FENCE)


def phase(places: Places) -> Phase:
    return Phase(name="network", holds=lambda: holds(places), make=lambda: make(places), done="set up")


def holds(places: Places) -> bool:
    return (
        owner() == str(places.state)
        and attempt("ip", "route", "show", SERVICE_RANGE).stdout.startswith(SERVICE_RANGE)
        and all(read_setting(n) == v for n, v in NEEDED.items())
        and all(attempt("iptables", "-w", "-C", *r).returncode == 0 for r in fence_rules())
        and not loose_ends()
    )


def make(places: Places) -> None:
    refuse_another_owner(places)
    note_settings(places)
    if owner() is None:
        run("ip", "link", "add", NODE_BRIDGE, "type", "bridge")
    run("ip", "link", "set", NODE_BRIDGE, "alias", str(places.state), "up")
    run("ip", "address", "replace", f"{NODE_ADDRESS}/32", "dev", NODE_BRIDGE)
    run("ip", "route", "replace", SERVICE_RANGE, "dev", NODE_BRIDGE, "src", NODE_ADDRESS)
    for name, value in NEEDED.items():
        write_setting(name, value)
    attempt("iptables", "-w", "-N", FENCE)
    for rule in fence_rules():
        if attempt("iptables", "-w", "-C", *rule).returncode:
            run("iptables", "-w", "-A", *rule)
    reattach(loose_ends())


def loose_ends() -> list[str]:
    """This side of the cables of pods that run, where they lead to no bridge: it was taken away beneath them."""
    made = {name for file in CNI_RESULTS.glob(f"{NAME}-*") for name in cables_in(file.read_text(encoding="utf-8"))}
    links = json.loads(attempt("ip", "-json", "link", "show", "type", "veth").stdout or "[]")
    return sorted(link["ifname"] for link in links if link["ifname"] in made and "master" not in link)


def cables_in(result: str) -> list[str]:
    """The machine's ends of a pod's cables, out of what CNI noted as it made them."""
    return [i["name"] for i in json.loads(result)["result"]["interfaces"] if not i.get("sandbox") and i["name"] != POD_BRIDGE]


def reattach(ends: list[str]) -> None:
    if ends and attempt("ip", "link", "show", POD_BRIDGE).returncode:
        run("ip", "link", "add", POD_BRIDGE, "type", "bridge")
        run("ip", "address", "replace", POD_GATEWAY, "dev", POD_BRIDGE)
        run("ip", "link", "set", POD_BRIDGE, "up")
    for end in ends:
        run("ip", "link", "set", end, "master", POD_BRIDGE)
        run("ip", "link", "set", end, "type", "bridge_slave", "hairpin", "on")


def refuse_another_owner(places: Places) -> None:
    """One local cluster a machine: they would share names, addresses and ports."""
    found = owner()
    if found and found != str(places.state):
        raise BadInput(
            Problem(what=f"another local cluster runs on this machine, from {found}"),
            hint=f"take it down first: COUNTERSIGN_STATE={Path(found).parent} make cluster-down",
        )


def owner() -> str | None:
    """The state folder whose cluster the bridge belongs to, empty where it does not say; None without a bridge."""
    told = attempt("ip", "-json", "link", "show", NODE_BRIDGE)
    return None if told.returncode else str(json.loads(told.stdout)[0].get("ifalias", ""))


def fence_rules() -> tuple[tuple[str, ...], ...]:
    """Pods reach one another, services and this machine; nothing beyond it, and nothing beyond it reaches them."""
    refuse = ("-j", "REJECT", "--reject-with", "icmp-admin-prohibited")
    return (
        (FENCE, "-s", POD_RANGE, "!", "-d", POD_RANGE, *refuse),
        (FENCE, "!", "-s", POD_RANGE, "-d", POD_RANGE, *refuse),
        ("FORWARD", "-j", FENCE),
    )


def setting_path(name: str) -> Path:
    return Path("/proc/sys") / name.replace(".", "/")


def read_setting(name: str) -> str | None:
    try:
        return setting_path(name).read_text().strip()
    except OSError:
        return None


def write_setting(name: str, value: str) -> None:
    try:
        setting_path(name).write_text(value)
    except OSError as e:
        raise BadInput(
            Problem(what=f"cannot set {name} to {value}: {e.strerror}"), hint="the local cluster needs it: modprobe br_netfilter"
        ) from None


def note_settings(places: Places) -> None:
    """Keeps the machine's values from before the cluster; a second call changes nothing."""
    file = places.state / "settings-before.json"
    if file.exists():
        return
    before = {n: v for n in (*NEEDED, *TOUCHED) if (v := read_setting(n)) is not None}
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(before, indent=1))
    partial.replace(file)


def remove(places: Places) -> None:
    """Takes away bridges, rules and chains, and puts settings back; nothing where nothing is left."""
    found = owner()
    if found is not None and found != str(places.state):
        return
    for table in TABLES:
        for words in removals(attempt("iptables", "-w", "-t", table, "-S").stdout):
            attempt("iptables", "-w", "-t", table, *words)
    for bridge in (POD_BRIDGE, NODE_BRIDGE):
        attempt("ip", "link", "delete", bridge)
    with suppress(FileNotFoundError):
        for name, value in json.loads((places.state / "settings-before.json").read_text()).items():
            with suppress(OSError):
                setting_path(name).write_text(value)


def removals(listing: str) -> list[list[str]]:
    """What iptables is to be told, in order, given a table's `-S`: rules that lead to our chains, then what is in them, then they."""
    lines = [shlex.split(line) for line in listing.splitlines() if line]
    chains = [words[1] for words in lines if words[0] == "-N" and words[1].startswith(OURS)]
    rules = [["-D", *words[1:]] for words in lines if words[0] == "-A" and words[1] not in chains and leads_to(words, chains)]
    return [*rules, *(["-F", c] for c in chains), *(["-X", c] for c in chains)]


def leads_to(words: list[str], chains: list[str]) -> bool:
    return any(flag in {"-j", "-g"} and target in chains for flag, target in pairwise(words))


def pod_network(places: Places) -> str:
    """The CNI configuration: pods on one bridge, with addresses that are handed out below the state folder."""
    bridge = {
        "type": "bridge",
        "bridge": POD_BRIDGE,
        "isGateway": True,
        "hairpinMode": True,
        "ipMasq": False,
        "ipam": {
            "type": "host-local",
            "dataDir": str(places.state / "addresses"),
            "ranges": [[{"subnet": POD_RANGE}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    return json.dumps({"cniVersion": "0.4.0", "name": NAME, "plugins": [bridge]}, indent=1)
