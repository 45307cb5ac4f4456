"""Turns a text file into a C string: embed.py INPUT OUTPUT NAME."""
import sys

source, out, name = sys.argv[1:4]
with open(source, encoding="utf-8") as f, open(out, "w", encoding="utf-8") as o:
    o.write(f"extern const char {name}[];\nconst char {name}[] =\n")
    for line in f:
        text = line.rstrip("\n").replace("\\", "\\\\").replace('"', '\\"')
        o.write(f'    "{text}\\n"\n')
    o.write("    ;\n")
