#!/usr/bin/env python3
"""Makes C from the type declarations: pkg/api/idl/*.idl -> a header and a table of descriptors for each package, and
index.c over all of them. The language is described in pkg/api/idl/README.md, what comes out in pkg/api/api.h.

    gen.py OUTDIR FILE.idl...

Reads all files, resolves names across them, lays the structs out in an order C accepts, and writes
OUTDIR/PACKAGE.h, OUTDIR/PACKAGE.c and OUTDIR/index.c. Standard library only; a mistake in a declaration ends the
build with the file and line."""

import os
import re
import shlex
import sys

KEYWORDS = set("""auto break case char const continue default do double else enum extern float for goto if inline int
long register restrict return short signed sizeof static struct switch typedef union unsigned void volatile while asm
typeof bool true false""".split())

# IDL scalar -> (descriptor kind, C type of a value, vector type, map type)
SCALARS = {
    'string': ('STRING', 'const char *', 'str_vec', 'str_map'),
    'bool': ('BOOL', 'bool ', 'bool_vec', None),
    'int32': ('INT32', 'int32_t ', 'i32_vec', None),
    'int64': ('INT64', 'int64_t ', 'i64_vec', None),
    'uint32': ('UINT32', 'uint32_t ', 'u32_vec', None),
    'uint64': ('UINT64', 'uint64_t ', 'u64_vec', None),
    'double': ('DOUBLE', 'double ', None, None),
    'bytes': ('BYTES', 'struct bytes ', 'bytes_vec', 'bytes_map'),
    'Time': ('TIME', 'struct ktime ', None, 'ktime_map'),
    'MicroTime': ('MICROTIME', 'struct ktime ', None, None),
    'Duration': ('DURATION', 'const char *', None, None),
    'Quantity': ('QUANTITY', 'const char *', 'str_vec', 'str_map'),
    'IntOrString': ('INT_OR_STRING', 'struct int_or_string ', None, None),
    'RawExtension': ('RAW', 'struct raw_json ', 'raw_json_vec', None),
    'JSON': ('RAW', 'struct raw_json ', 'raw_json_vec', None),
    'FieldsV1': ('FIELDS_V1', 'struct raw_json ', None, None),
}
# *bool and friends are pointers in C; for every other scalar "absent" has a value of its own.
POINTERS = {'BOOL', 'INT32', 'INT64', 'UINT32', 'UINT64', 'DOUBLE', 'ENUM'}
EMPTY_TYPE = '1'  # C has no empty struct: a message without members gets a byte


class Bad(Exception):
    pass


def words(name):
    """The words of a CamelCase or snake_case name: podCIDRs is pod, cidrs."""
    name = name.replace('IPv', 'Ipv').replace('UInt', 'Uint')
    found = []
    for part in re.split(r'[^A-Za-z0-9]+', name):
        found += re.findall(r'[A-Z]{2,}s(?=[A-Z]|$)|[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z0-9]+|[A-Z]+[0-9]*|[0-9]+', part)
    return [w.lower() for w in found]


def snake(name):
    return '_'.join(words(name))


def member(name):
    s = snake(name)
    return s + '_' if s in KEYWORDS else s


def c_str(s):
    if s is None:
        return 'NULL'
    return '"' + s.replace('\\', '\\\\').replace('"', '\\"') + '"'


class Type:
    def __init__(self, pkg, name, attrs, doc):
        self.pkg, self.name, self.attrs, self.doc = pkg, name, attrs, doc
        self.fields = []
        self.c = pkg.name + '_' + snake(name)


class Field:
    """One line of a type. After resolve(): kind, shape, base (Type, Enum or scalar name)."""

    def __init__(self, where, json, type_, proto, flags, doc):
        self.where, self.json, self.idl_type, self.proto, self.flags, self.doc = where, json, type_, proto, flags, doc
        self.inline = json == 'inline'
        self.c = member(json)


class Enum:
    def __init__(self, pkg, name, values, kind):
        self.pkg, self.name, self.values, self.kind = pkg, name, values, kind  # kind: enum, values, enum32


class Package:
    def __init__(self, name):
        self.name = name
        self.group = self.version = self.openapi = ''
        self.proto3 = False
        self.types, self.enums, self.services = {}, {}, []
        self.uses = set()


def parse_flags(text):
    """'omit list=map(a,b) default="x"' -> {'omit': True, 'list': 'map', 'list.keys': ['a', 'b'], ...}"""
    out = {}
    for word in shlex.split(text, posix=False):
        name, eq, value = word.partition('=')
        m = re.fullmatch(r'(\w+)\(([^)]*)\)', value if eq else name)
        if m and name != 'default':
            key = name if eq else m[1]
            out[key] = m[1] if eq else True
            out[key + '.keys'] = m[2].split(',')
        else:
            out[name] = value if eq else True
    return out


KNOWN = {'omit', 'omitzero', 'required', 'list', 'map', 'merge', 'retainKeys', 'replace', 'default', 'discriminator', 'oneof',
         'immutable', 'unhonoured', 'format'}


def parse(path):
    pkg = cur = service = doc = None
    for number, line in enumerate(open(path, encoding='utf-8'), 1):
        where = f'{os.path.basename(path)}:{number}'
        line = line.rstrip()
        if line.startswith('## '):
            doc = (doc + ' ' if doc else '') + line[3:]
            continue
        if not line or line.startswith('#'):
            continue
        head, _, rest = line.strip().partition(' ')
        if line[0] != ' ':
            cur = service = None
        if cur is None and head == 'package':
            pkg = Package(rest)
        elif cur is None and head == 'group':
            group, _, version = shlex.split(rest)
            pkg.group, pkg.version = group, version
        elif cur is None and head == 'openapi':
            pkg.openapi = rest
        elif cur is None and head == 'proto3':
            pkg.proto3 = True
        elif line[0] != ' ' and head in ('enum', 'values', 'enum32'):
            name, _, values = rest.partition(':')
            pkg.enums[name] = Enum(pkg, name, shlex.split(values), head)
        elif line[0] != ' ' and head == 'type':
            name, *attrs = rest.split()
            cur = pkg.types[name] = Type(pkg, name, set(attrs), doc)
            doc = None
        elif line[0] != ' ' and head == 'service':
            name, proto_package, *wire = rest.split()  # a third word: its name on the wire
            service = (name, proto_package, [], *(wire or [name]))
            pkg.services.append(service)
        elif service is not None and head == 'rpc':
            m = re.fullmatch(r'(\w+) +(stream )?(\w+) -> (stream )?(\w+)', rest)
            service[2].append((m[1], bool(m[2]), m[3], bool(m[4]), m[5]))
        elif cur is not None:
            decl, _, fdoc = line.strip().partition(' -- ')
            parts = decl.split(None, 3)
            if len(parts) < 3:
                raise Bad(f'{where}: name, type and number wanted')
            flags = parse_flags(parts[3] if len(parts) > 3 else '')
            unknown = {k.split('.')[0] for k in flags} - KNOWN
            if unknown:
                raise Bad(f'{where}: unknown flags {unknown}')
            proto = 0 if parts[2] == '-' else int(parts[2])
            cur.fields.append(Field(where, parts[0], parts[1], proto, flags, fdoc or None))
        else:
            raise Bad(f'{where}: {line}')
    return pkg


def resolve(field, pkg, packages):
    t, shape = field.idl_type, 'ONE'
    if t == 'Strings':
        t, shape, field.wrapped = 'string', 'LIST', True
    elif t == 'map[Strings]':
        t, shape = 'string', 'MAP_LISTS'
    elif t.startswith('*'):
        t, shape = t[1:], 'PTR'
    elif t.startswith('[]'):
        t, shape = t[2:], 'LIST'
    elif t.startswith('map['):
        t, shape = t[4:-1], 'MAP'
    field.shape, field.enum, field.base, field.scalar = shape, None, None, None
    if t in SCALARS:
        field.kind, field.scalar = SCALARS[t][0], t
        if pkg.proto3 and shape == 'ONE' and 'oneof' in field.flags and field.kind in POINTERS:
            field.shape = 'PTR'
        return
    owner, _, name = t.rpartition('.')
    p = packages.get(owner) if owner else pkg
    if p is None:
        raise Bad(f'{field.where}: no package {owner}')
    pkg.uses.add(p.name)
    if name in p.enums:
        field.enum = p.enums[name]
        field.kind, field.scalar = ('ENUM', 'int32') if field.enum.kind == 'enum32' else ('STRING', 'string')
    elif name in p.types:
        field.kind, field.base = 'MESSAGE', p.types[name]
        if pkg.proto3 and shape == 'ONE':
            field.shape = 'PTR'
    else:
        raise Bad(f'{field.where}: no type {t}')


def c_decl(f):
    if f.base:
        c = 'struct ' + f.base.c
        return {'ONE': c + ' ', 'PTR': c + ' *', 'LIST': c + '_vec ', 'MAP': c + '_map '}[f.shape]
    kind, value, vec, map_ = SCALARS[f.scalar]
    if f.shape == 'MAP_LISTS':
        return 'struct str_vec_map '
    if f.shape in ('LIST', 'MAP'):
        name = vec if f.shape == 'LIST' else map_
        if not name:
            raise Bad(f'{f.where}: no C type for {f.idl_type}')
        return f'struct {name} '
    return value.rstrip() + ' *' if f.shape == 'PTR' and f.kind in POINTERS else value


def members(t, depth=1):
    """The C members of a struct. What stands inline is there twice over the same bytes: as a struct and flattened."""
    pad, out = '    ' * depth, []
    for f in t.fields:
        if f.inline:
            out += [f'{pad}union {{', f'{pad}    struct {f.base.c} {snake(f.base.name)};', f'{pad}    struct {{']
            out += members(f.base, depth + 2)
            out += [f'{pad}    }};', f'{pad}}};']
        else:
            out.append(f'{pad}{c_decl(f)}{f.c};')
    if not t.fields:
        out.append(pad + 'uint8_t empty_;')
    return out


def by_value(t):
    return [f.base for f in t.fields if f.base and f.shape == 'ONE']


def in_order(types):
    done, out = set(), []

    def visit(t, pkg):
        if t.c in done or t.pkg is not pkg:
            return
        done.add(t.c)
        for b in by_value(t):
            visit(b, pkg)
        out.append(t)

    for t in types:
        visit(t, t.pkg)
    return out


def enum_value(v):
    return '_'.join(words(v)).upper() if v != '*' else 'ALL'


def write_enums(pkg, out):
    seen = set()
    for e in pkg.enums.values():
        prefix = (pkg.name + '_' + snake(e.name)).upper()
        if e.kind == 'enum32':
            out.append('enum %s {' % prefix.lower())
            out += [f'    {prefix}_{enum_value(v.split("=")[0])} = {v.split("=")[1]},' for v in e.values]
            out += ['};', '']
            continue
        for v in e.values:
            name = f'{prefix}_{enum_value(v)}'
            if enum_value(v) and name not in seen:
                out.append(f'#define {name} {c_str(v)}')
                seen.add(name)
    out.append('')


def rpc_names(pkg, service):
    return f'{pkg.name}_{snake(service[0])}_rpcs'


def header(pkg, packages, mapped):
    out = [f'/* Made by pkg/api/gen.py from idl/{pkg.name}.idl; see pkg/api/api.h. */', '#pragma once', '',
           '#include "pkg/api/api.h"']
    out += [f'#include "pkg/api/{u}.h"' for u in sorted(pkg.uses - {pkg.name})] + ['']
    write_enums(pkg, out)
    types = list(pkg.types.values())
    for t in types:
        out.append(f'struct {t.c};')
        out.append(f'struct {t.c}_vec {{ struct {t.c} *items; size_t n; }};')
    for t in types:
        if t.c in mapped:
            out.append(f'struct {t.c}_map {{ struct {t.c}_map_entry *items; size_t n; }};')
    out.append('')
    for t in in_order(types):
        if t.doc:
            out.append(f'/* {t.doc} */')
        out += [f'struct {t.c} {{'] + members(t) + ['};', '']
    for t in types:
        if t.c in mapped:
            out.append(f'struct {t.c}_map_entry {{ const char *key; struct {t.c} value; }};')
    out += [f'extern const struct api_type api_{t.c};' for t in types] + ['']
    for s in pkg.services:
        name = rpc_names(pkg, s)
        out.append(f'extern const struct api_rpc {name}[{len(s[2])}];')
        for i, r in enumerate(s[2]):
            out.append(f'#define api_rpc_{pkg.name}_{snake(s[0])}_{snake(r[0])} ({name}[{i}])')
    return '\n'.join(out) + '\n'


class Strings:
    """Arrays of strings shared by the descriptors of one file."""

    def __init__(self):
        self.names, self.lines = {}, []

    def array(self, items, prefix):
        key = tuple(items)
        if key not in self.names:
            self.names[key] = f'{prefix}_{len(self.names)}'
            self.lines.append(f'static const char *const {self.names[key]}[] = '
                              '{%s, NULL};' % ', '.join(c_str(i) for i in items))
        return self.names[key]


def flag_names(f, pkg):
    fl, out = f.flags, []
    for word, name in (('required', 'REQUIRED'), ('omit', 'OMITEMPTY'), ('omitzero', 'OMITZERO'), ('merge', 'PATCH_MERGE'),
                       ('retainKeys', 'RETAIN_KEYS'), ('replace', 'PATCH_REPLACE'), ('discriminator', 'DISCRIMINATOR'), ('oneof', 'ONEOF'),
                       ('immutable', 'IMMUTABLE'), ('unhonoured', 'NOT_HONOURED')):
        if word in fl:
            out.append(name)
    out += {'map': ['LIST_MAP'], 'set': ['LIST_SET'], 'atomic': ['ATOMIC']}.get(fl.get('list'), [])
    out += {'atomic': ['ATOMIC'], 'granular': ['GRANULAR']}.get(fl.get('map'), [])
    if f.inline:
        out.append('INLINE')
    if getattr(f, 'wrapped', False):
        out.append('WRAPPED')
    if pkg.proto3 and f.shape == 'LIST' and f.kind in POINTERS:
        out.append('PACKED')
    return out


def field_row(owner, f, path, strings, proto):
    json = '' if f.inline else f.json
    cname = snake(f.base.name) if f.inline else f.c
    a = [f'.json = {c_str(json)}', f'.json_len = {len(json)}', f'.offset = offsetof(struct {owner.c}, {cname})',
         f'.kind = API_{f.kind}', f'.shape = API_{f.shape}']
    if proto:
        a.append(f'.proto = {proto}')
    flags = flag_names(f, owner.pkg)
    if flags:
        a.append('.flags = ' + ' | '.join('API_F_' + n for n in flags))
    if f.base:
        a.append(f'.type = &api_{f.base.c}')
    if 'list.keys' in f.flags:
        a.append('.list_keys = ' + strings.array(f.flags['list.keys'], 'keys'))
    if 'merge.keys' in f.flags:
        a.append('.patch_key = ' + c_str(f.flags['merge.keys'][0]))
    if 'default' in f.flags:
        a.append('.dflt = ' + c_str(f.flags['default']))
    if f.enum and f.enum.kind == 'enum':
        a.append('.enums = ' + strings.array(f.enum.values, 'enums'))
    if f.enum and f.enum.kind == 'enum32':
        numbers = [int(v.split('=')[1]) for v in f.enum.values]
        if numbers == list(range(len(numbers))):
            a.append('.enums = ' + strings.array([v.split('=')[0] for v in f.enum.values], 'enums'))
    if 'format' in f.flags:
        a.append('.format = ' + c_str(f.flags['format']))
    elif f.scalar == 'JSON':
        a.append('.format = "json"')  # any JSON, where RawExtension is an object
    if f.doc:
        a.append('.doc = ' + c_str(f.doc))
    return '    {' + ', '.join(a) + '},'


def flattened(t, path=()):
    for f in t.fields:
        if f.inline:
            yield from flattened(f.base, path + (f,))
        else:
            yield f, path


def table(t, strings):
    """Rows: the fields as JSON shows them, then the inline structs that protobuf knows as messages of their own."""
    rows, wire = [], []
    for f, path in flattened(t):
        proto = f.proto if not path else 0
        if proto:
            wire.append((proto, len(rows)))
        rows.append(field_row(t, f, path, strings, proto))
    n = len(rows)
    for f in t.fields:
        if f.inline and f.proto:
            wire.append((f.proto, len(rows)))
            rows.append(field_row(t, f, (), strings, f.proto))
    wire.sort()
    out = []
    if rows:
        out += [f'static const struct api_field {t.c}_fields[] = {{'] + rows + ['};']
    if wire:
        out.append(f'static const uint16_t {t.c}_wire[] = {{' + ', '.join(str(i) for _, i in wire) + '};')
    a = [f'.name = {c_str(t.name)}', f'.group = {c_str(t.pkg.group)}', f'.version = {c_str(t.pkg.version)}']
    if t.pkg.openapi:
        a.append(f'.openapi = {c_str(t.pkg.openapi + "." + t.name)}')
    if rows:
        a.append(f'.fields = {t.c}_fields')
    if wire:
        a.append(f'.wire = {t.c}_wire')
    a += [f'.n_fields = {n}', f'.n_wire = {len(wire)}', f'.size = sizeof(struct {t.c})', f'.vec_stride = sizeof(struct {t.c})']
    for attr, name in (('kind', 'is_kind'), ('atomic', 'atomic'), ('bare', 'bare'), ('union', 'is_union')):
        if attr in t.attrs:
            a.append(f'.{name} = true')
    if t.pkg.proto3:
        a.append('.proto3 = true')
    if t.doc:
        a.append('.doc = ' + c_str(t.doc))
    return out + [f'const struct api_type api_{t.c} = {{' + ', '.join(a) + '};', '']


def source(pkg):
    strings, body = Strings(), []
    for t in pkg.types.values():
        body += table(t, strings)
    for s in pkg.services:
        body.append(f'const struct api_rpc {rpc_names(pkg, s)}[] = {{')
        for name, cs, req, ss, res in s[2]:
            body.append(f'    {{"/{s[1]}.{s[3]}/{name}", &api_{pkg.types[req].c}, &api_{pkg.types[res].c}, '
                        f'{str(cs).lower()}, {str(ss).lower()}}},')
        body += ['};', '']
    head = [f'/* Made by pkg/api/gen.py from idl/{pkg.name}.idl. */', f'#include "pkg/api/{pkg.name}.h"', '']
    return '\n'.join(head + strings.lines + [''] + body)


def index(packages):
    out = ['/* Made by pkg/api/gen.py: every type there is. */']
    out += [f'#include "pkg/api/{p.name}.h"' for p in packages] + ['', 'const struct api_type *const api_types[] = {']
    out += [f'    &api_{t.c},' for p in packages for t in p.types.values()]
    return '\n'.join(out + ['};', 'const size_t api_types_n = sizeof(api_types) / sizeof(api_types[0]);']) + '\n'


def write(path, text):
    with open(path, 'w', encoding='utf-8') as f:
        f.write(text)


def main():
    out, files = sys.argv[1], sys.argv[2:]
    packages = {}
    for path in files:
        p = parse(path)
        packages[p.name] = p
    mapped = set()
    for p in packages.values():
        for t in p.types.values():
            for f in t.fields:
                resolve(f, p, packages)
                if f.base and f.shape == 'MAP':
                    mapped.add(f.base.c)
                if f.inline and f.shape == 'PTR':
                    raise Bad(f'{f.where}: inline members cannot be optional')
    for p in packages.values():
        write(f'{out}/{p.name}.h', header(p, packages, mapped))
        write(f'{out}/{p.name}.c', source(p))
    write(f'{out}/index.c', index(packages.values()))


if __name__ == '__main__':
    try:
        main()
    except Bad as e:
        sys.exit(f'gen.py: {e}')
