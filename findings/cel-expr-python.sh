#!/bin/bash
# cel-expr-python 0.1.3 (Google's binding of cel-cpp), beside what Kubernetes has from cel-go:
#  1. each call of a function written in Python keeps one reference to each argument and to the result for ever;
#  2. a chain of 33 or more operators of one kind is refused (cel-go, with Kubernetes' settings: 250);
#  3. a loop that collects n items copies the list for each of them: twice the items, four times the time;
#  4. an evaluation with more than 10,000 rounds of loops fails (Kubernetes: a cost limit, some 125,000 rounds);
#  5. matches() compiles its pattern at each call, also one that is written out (cel-go compiles such a pattern once).
# Exits with 1 where that has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check cel-expr-python==0.1.3 protobuf==7.35.1
"$folder/venv/bin/python" - <<'PYTHON'
import importlib.metadata
import sys
import time

from cel_expr_python import cel

print("cel-expr-python", importlib.metadata.version("cel-expr-python"))
seen, given = [], []


def twice(text):
    seen.append(text)
    given.append(text + text)
    return given[-1]


text = cel.Type.STRING
overload = cel.Overload("twice_text", return_type=text, parameters=[text], impl=twice)
environment = cel.NewEnv(variables={"n": cel.Type.List(cel.Type.INT)}, functions=[cel.FunctionDecl("twice", [overload])])
environment.compile('twice("he" + "llo") == ""').eval(data={}).value()
# Two are ours: the list's and getrefcount's own.
kept = [sys.getrefcount(seen[0]) - 2, sys.getrefcount(given[0]) - 2]
print("references kept to argument and result:", kept)


def compiles(terms):
    try:
        environment.compile("+".join(["1"] * terms) + " > 0")
    except RuntimeError as error:
        print(terms, "terms:", str(error).splitlines()[0])
        return False
    print(terms, "terms: compiles")
    return True


deep = compiles(20), compiles(40)
program = environment.compile("n.map(i, i + 1).size() > 0")


def seconds(items):
    data = {"n": list(range(items))}
    begin = time.process_time()
    program.eval(data=data).value()
    return time.process_time() - begin


seconds(100)
growth = min(seconds(2000) for _ in range(3)) / min(seconds(500) for _ in range(3))
print(f"map over 2,000 items takes {growth:.0f} times as long as over 500")
rounds = environment.compile("n.all(i, i >= 0)")


def runs(items):
    try:
        answer = rounds.eval(data={"n": list(range(items))}).value()
    except RuntimeError as error:
        answer = str(error)
    print(f"{items:,} rounds: {answer}")
    return answer is True


ends = runs(9_000), runs(11_000)
matching = cel.NewEnv(variables={"text": cel.Type.STRING})


def match_seconds(alternatives):
    pattern = "|".join(f"word{number}[a-z]x" for number in range(alternatives))
    program = matching.compile(f'text.matches("{pattern}")')
    begin = time.process_time()
    for _ in range(200):
        program.eval(data={"text": "none"}).value()
    return time.process_time() - begin


match_seconds(1)
longer = min(match_seconds(100) for _ in range(3)) / min(match_seconds(1) for _ in range(3))
print(f"matches() on a text of four letters: a pattern of 100 words takes {longer:.0f} times as long as one of one word")
sys.exit(kept != [1, 1] or deep != (True, False) or growth < 8 or ends != (True, False) or longer < 5)
PYTHON
