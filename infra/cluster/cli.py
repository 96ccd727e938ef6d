"""The only place here that parses arguments and exits. Exit codes: 0 done, 1 down or a defect, 2 bad input, 75 try again."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from infra.cluster import argo, programs, services, upstream
from infra.cluster.around import around
from infra.cluster.choose import Kind, choose
from infra.cluster.down import down
from infra.cluster.kube import Kube, from_environment
from infra.cluster.packages import install_line, missing_packages, require_local
from infra.cluster.progress import carry_out
from infra.cluster.recipes import EVERY, recipe
from infra.cluster.settings import BUCKET, REGION, Places
from infra.cluster.status import as_json, kube_of, status, table
from infra.cluster.up import Wishes, up
from workflows.errors import BadInput, CountersignError, Temporary


def main(words: Sequence[str]) -> int:
    given = parser().parse_args(words)
    try:
        return int(given.do(Places.from_environment(), given))
    except CountersignError as e:
        return tell(e, e.exit_code, e.hint)
    except TimeoutError as e:
        return tell(e, Temporary.exit_code, "run the same command again; it goes on where it stopped")
    except KeyboardInterrupt:
        return tell("interrupted", Temporary.exit_code, "run the same command again; it goes on where it stopped")
    except Exception as e:  # noqa: BLE001 (a person sees a sentence, not a traceback)
        if given.debug:
            traceback.print_exc()
        return tell(f"{type(e).__name__}: {e}", 1, "a defect; --debug before the command shows where")


def tell(what: object, code: int, hint: str = "") -> int:
    print(f"error: {what}" + (f"\n  {hint}" if hint else ""), file=sys.stderr)
    return code


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python infra/cluster", description="A Kubernetes cluster to run pipelines on.")
    top.add_argument("--debug", action="store_true", help="show where a defect lies")
    top.add_argument("--on", choices=[k.value for k in Kind], help="decide yourself, instead of by KUBECONFIG and Docker")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    add_up(commands)
    one = command(commands, "status", do_status, "what is up and what is down; exit code 1 if anything is down")
    one.add_argument("--json", action="store_true")
    command(commands, "down", do_down, "take the cluster away and leave nothing")
    command(commands, "env", do_env, "what to set in a shell: eval $(python infra/cluster env)")
    one = command(commands, "load", do_load, "load an image archive into the cluster")
    one.add_argument("archive", type=Path, metavar="IMAGE_ARCHIVE.tar")
    command(commands, "image", do_image, "build the image that steps run in, and load it")
    one = command(commands, "around", do_around, "bring the cluster up, run a command there, and take away what was brought")
    one.add_argument(
        "--unasked",
        action="store_true",
        help="as a part of something larger: only on a cluster of its own that is up in minutes; else say why not",
    )
    one.add_argument("words", nargs=argparse.REMAINDER, metavar="COMMAND ...")
    command(commands, "upstream", do_upstream, "copy Argo's install manifests out of its modules into this checkout")
    one = command(commands, "programs", do_programs, "build programs into the cache and print where they lie")
    one.add_argument("names", nargs="*", metavar="PROGRAM", help="all but those for promotion, if none is named")
    return top


if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001 (it has no other name)


def command(commands: Commands, name: str, do: Callable[[Places, argparse.Namespace], int], about: str) -> argparse.ArgumentParser:
    one: argparse.ArgumentParser = commands.add_parser(name, help=about, description=about)
    one.set_defaults(do=do)
    return one


def add_up(commands: Commands) -> None:
    one = command(commands, "up", do_up, "bring the cluster up; safe to repeat")
    one.add_argument("--with", dest="extra", choices=["promotion"], help="also Argo Rollouts, metrics-server, Prometheus and the policies")
    one.add_argument(
        "--install-packages", action="store_true", default=os.environ.get("CI") == "true", help="let it install Debian packages"
    )
    one.add_argument("--overlay", help="which of infra/argo/overlays to apply (here: local; on a cluster of KUBECONFIG: none)")
    one.add_argument("--no-step-image", action="store_true", help="leave the steps' image out")


def kind_of(places: Places, given: argparse.Namespace) -> Kind:
    return choose(places, wish=given.on)


def do_up(places: Places, given: argparse.Namespace) -> int:
    kind = kind_of(places, given)
    print(f"Bringing up the cluster ({kind.value}); state in {places.state}, built programs in {places.cache}", flush=True)
    wishes = Wishes(
        promotion=given.extra == "promotion",
        install_packages=given.install_packages,
        overlay=given.overlay,
        step_image=not given.no_step_image,
    )
    up(places, kind, wishes)
    print(next_commands(places, kind))
    return 0


def next_commands(places: Places, kind: Kind) -> str:
    if kind is Kind.EXISTING:
        return f"""The cluster answers. Nothing was installed on it unless you named an overlay.
  kubeconfig  {from_environment()}
  install     kubectl apply --server-side -k infra/argo/overlays/dev   (docs/install.md)"""
    return f"""The cluster is up.
  kubeconfig  {places.kubeconfig}
  use it      export KUBECONFIG={places.kubeconfig} PATH={places.bin}:$PATH
  everything  eval "$(python infra/cluster env)"
  look        make cluster-status; kubectl get pods -A
  take away   make cluster-down"""


def do_around(places: Places, given: argparse.Namespace) -> int:
    kind = kind_of(places, given)
    install = os.environ.get("CI") == "true"
    if given.unasked and (why := better_asked(places, kind)):
        print(f"not run: what needs a cluster. {why}. To run it: make test-cluster", file=sys.stderr)
        return 0
    if kind is Kind.LOCAL and (why := cannot_be_built(install=install)) and not os.environ.get("COUNTERSIGN_TEST_ALL"):
        print(f"not run: what needs a cluster. {why}. Then: make test-cluster", file=sys.stderr)
        return 0
    return around(places, kind, Wishes(install_packages=install, promotion=True), given.words)


def better_asked(places: Places, kind: Kind) -> str:
    """Why somebody who asked for something larger does not expect a cluster to be used or built; empty where it is no matter."""
    if kind is Kind.EXISTING:
        return "KUBECONFIG names yours, and these tests break things"
    if places.state.exists():
        return "There is one already, and these tests break things"
    unbuilt = [g.name for g in programs.wanted(promotion=True) if not programs.folder(places, recipe(g)).is_dir()]
    return f"Its programs are not built yet ({', '.join(unbuilt)}), and all of them take two cores 40 minutes" if unbuilt else ""


def cannot_be_built(*, install: bool) -> str:
    """Why no cluster can be built here, and what to do; empty where one can."""
    try:
        require_local()
    except BadInput as e:
        return f"{e}; {e.hint}"
    lacking = () if install else missing_packages(step_image=argo.STEP_IMAGE.exists())
    return f"This machine lacks programs for it: {install_line(lacking)}" if lacking else ""


def do_status(places: Places, given: argparse.Namespace) -> int:
    kind = kind_of(places, given)
    parts = status(places, kind)
    print(json.dumps(as_json(parts, kind), indent=1) if given.json else table(parts))
    return 0 if all(p.up for p in parts) else 1


def do_down(places: Places, given: argparse.Namespace) -> int:
    down(places, kind_of(places, given))
    if places.cache.exists():
        print(f"Kept for the next time: built programs and images in {places.cache}")
        if shutil.which("buildah"):
            print("  and, in buildah's own store, the images that were built here, if any; docs/cluster.md says how to remove both")
    return 0


def do_env(places: Places, given: argparse.Namespace) -> int:
    kind = kind_of(places, given)
    if kind is Kind.EXISTING:
        print(f"export KUBECONFIG={from_environment()}")
        return 0
    if not places.kubeconfig.exists():
        raise BadInput("no cluster is here", hint="make cluster-up")
    print(f"export KUBECONFIG={places.kubeconfig}\nexport PATH={places.bin}:$PATH")
    if kind is Kind.LOCAL:
        print("\n".join(f"export {k}={v}" for k, v in store_environment(kube_of(places, kind)).items()))
    return 0


def store_environment(kube: Kube) -> dict[str, str]:
    """What boto3, DVC and the AWS command line read."""
    keys = services.store_keys(kube) or {}
    url = services.store_url(kube)
    return {"AWS_ENDPOINT_URL": url, "AWS_DEFAULT_REGION": REGION, **keys, "COUNTERSIGN_BUCKET": BUCKET} if url else {}


def do_load(places: Places, given: argparse.Namespace) -> int:
    kind = kind_of(places, given)
    if kind is Kind.EXISTING:
        raise BadInput(
            "the cluster that KUBECONFIG names pulls its images from a registry",
            hint=f"push it there, for instance: skopeo copy docker-archive:{given.archive} docker://REGISTRY/NAME:TAG",
        )
    print("\n".join(argo.load(places, kind, given.archive)))
    return 0


def do_image(places: Places, given: argparse.Namespace) -> int:
    if not argo.STEP_IMAGE.exists():
        raise BadInput(f"there is no {argo.STEP_IMAGE} that could build it")
    kind = kind_of(places, given)
    if kind is Kind.EXISTING:
        raise BadInput(
            "the cluster that KUBECONFIG names pulls its images from a registry", hint=f"{argo.STEP_IMAGE} FILE.tar, then push it"
        )
    print("\n".join(argo.build_step_image(places, kind)))
    return 0


def do_upstream(_: Places, __: argparse.Namespace) -> int:
    carry_out([upstream.phase(promotion=True)])
    return 0


def do_programs(places: Places, given: argparse.Namespace) -> int:
    """Progress goes to stderr where programs are named, so that `$(… programs argo)` is a path."""
    if not given.names:
        carry_out(programs.phases(places, programs.wanted(promotion=False)))
        return 0
    for name in given.names:
        group = next((g for g in EVERY.values() if name in recipe(g).programs), None)
        if group is None:
            known = sorted(p for g in EVERY.values() for p in recipe(g).programs)
            raise BadInput(f"no program {name}; there are {', '.join(known)}")
        print(programs.build(places, recipe(group)) / name)
    return 0
