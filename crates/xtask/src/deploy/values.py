"""Whether every value of the chart matters: `values.py HELM FOLDER`, FOLDER being deploy/helm. Prints those that do not.

A value must be set by some case to something that is not its default, what is rendered must differ from what is
rendered with the default, and the schema must refuse it where it is of another type."""

import copy
import glob
import subprocess
import sys

import yaml

HELM, FOLDER = sys.argv[1:]


def read(file):
    with open(file) as opened:
        return yaml.safe_load(opened) or {}


def leaves(value, path=()):
    if isinstance(value, dict) and value:
        for key, below in value.items():
            yield from leaves(below, path + (key,))
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        yield from leaves(value[0], path)
    else:
        yield path, value


def put(values, path, leaf):
    """Puts it wherever there is something else at `path`: whether there was."""
    if isinstance(values, list):
        return any([put(one, path, leaf) for one in values])
    key, *below = path
    if key not in values:
        return False
    if below:
        return put(values[key], below, leaf)
    differs = values[key] != leaf
    values[key] = leaf
    return differs


def render(values):
    """What helm makes of them; nothing where it refuses them."""
    args = [HELM, "template", "shop", FOLDER + "/slipring", "--kube-version", "1.36.0", "--values", "-"]
    run = subprocess.run(args, input=yaml.dump(values), capture_output=True, text=True)
    return run.stdout if run.returncode == 0 else ""


cases = [(case, render(case)) for case in map(read, glob.glob(FOLDER + "/cases/*.yaml"))]
defaults = read(FOLDER + "/slipring/values.yaml")
for path, default in leaves(defaults):
    name = ".".join(path)

    def matters(case, rendered):
        other = copy.deepcopy(case)
        return put(other, path, default) and render(other) != rendered

    if not any(matters(*case) for case in cases):
        print(name + ": no case sets it to anything that matters")
    wrong = {**copy.deepcopy(defaults), "sentinels": ["s1:26379"]}
    put(wrong, path, 1 if isinstance(default, (dict, list)) else {})
    if render(wrong):
        print(name + ": the schema takes whatever it is")
