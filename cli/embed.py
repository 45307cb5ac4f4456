#!/usr/bin/env python3
"""embed.py OUT FILE...: a C source with each text file as `const char embed_NAME[]`, NAME from the file's name."""
import pathlib
import re
import sys

out, files = sys.argv[1], sys.argv[2:]
with open(out, "w") as c:
    for f in map(pathlib.Path, files):
        name = re.sub(r"\W", "_", f.stem)
        lines = f.read_text().splitlines()
        escaped = (s.replace("\\", "\\\\").replace('"', '\\"') for s in lines)
        c.write(f"extern const char embed_{name}[];\nconst char embed_{name}[] =\n")
        c.write("".join(f'    "{s}\\n"\n' for s in escaped) + "    ;\n")
