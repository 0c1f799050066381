"""Show names of the package on the docs site: classes as classes, parameters as tables, and the command line's commands
with their options and sample sessions."""
import html
import inspect
import re
import types
import typing
from importlib import import_module
from pathlib import Path

import nbformat
from fastcore.docments import docments

WIDTH = 88 # columns of a signature
EMPTY = inspect.Parameter.empty
SHOWN = re.compile(r'show_doc\(([\w.]+)') # nbdev's cell of a name
SESSION = re.compile(r'\$ (qvision .*)')  # first line of what `terminal` prints


def prose(text:str)->str:
    "Return a docstring as Markdown that shows what is written: outside backticks `<`, `*` and `_` mean nothing."
    parts = re.split(r'(`[^`]*`)', text)
    for i in range(0, len(parts), 2):
        parts[i] = re.sub(r'([*_\[\]~$^|])', r'\\\1', html.escape(parts[i], quote=False))
    return ''.join(parts)


def inline(text:str)->str:
    "Return text as HTML in which only backticks mean something."
    return re.sub(r'`([^`]+)`', r'<code>\1</code>', html.escape(text, quote=False))


def raw(text:str)->str:
    "Return HTML as a block that Markdown leaves alone."
    return f'```{{=html}}\n{text}\n```'


def code(text:str, language:str='python')->str: return f'```{language}\n{text}\n```'


def type_name(kind)->str:
    "Return a type as one writes it: `list[int]`, `str | None`."
    if kind is EMPTY: return ''
    if isinstance(kind, str): return kind
    if kind is None or kind is types.NoneType: return 'None'
    origin = typing.get_origin(kind)
    if origin is typing.Annotated: return type_name(typing.get_args(kind)[0])
    names = [type_name(each) for each in typing.get_args(kind)]
    if origin in (typing.Union, types.UnionType): return ' | '.join(names)
    name = getattr(origin or kind, '__name__', str(kind))
    return f'{name}[{", ".join(names)}]' if names else name


def default_text(value)->str:
    "Return a default as one writes it."
    if value is EMPTY: return ''
    if isinstance(value, Path): return repr(str(value))
    if inspect.isroutine(value) or inspect.isclass(value): return value.__name__
    text = re.sub(r'<factory>|<(\w+)[^>]*>', r'\1…', repr(value))
    return text if len(text) <= 60 else text[:57] + '…'


def parameters(of)->list: # of inspect.Parameter
    "Return the parameters of a function, or those that a class of this package is made with."
    if inspect.isclass(of):
        makers = [c for c in of.__mro__ if '__init__' in vars(c)]
        if not makers[0].__module__.startswith('qvision'): return []
    params = list(inspect.signature(of).parameters.values())
    return [param for param in params if param.name != 'self']


def _written(param)->str:
    stars = {param.VAR_POSITIONAL: '*', param.VAR_KEYWORD: '**'}.get(param.kind, '')
    kind = type_name(param.annotation)
    default = '' if param.default is EMPTY else f'={default_text(param.default)}'
    return f'{stars}{param.name}{":" if kind else ""}{kind}{default}'


def signature(of, name:str)->str:
    "Return how a function is called or a class is made, with `*` and `**` where they are."
    written = []
    for param in parameters(of):
        bare = not any(part.startswith('*') for part in written)
        if param.kind == param.KEYWORD_ONLY and bare: written.append('*')
        written.append(_written(param))
    is_class = inspect.isclass(of)
    returns = '' if is_class else type_name(inspect.signature(of).return_annotation)
    head = ('class ' if is_class else 'def ') + name
    tail = f' -> {returns}' if returns else ''
    if is_class and not written: return head
    line = f'{head}({", ".join(written)}){tail}'
    if len(line) <= WIDTH: return line
    return f'{head}(\n    ' + ',\n    '.join(written) + f',\n){tail}'


def _comments(of)->dict:
    "Return what is said of each parameter, from the comments beside them or a command's help."
    said = {name: ' '.join(text.split()) for name, text in docments(of).items() if text}
    for param in parameters(of):
        helps = [each.help for each in getattr(param.annotation, '__metadata__', ()) if getattr(each, 'help', None)]
        if helps: said[param.name] = helps[0]
    return said


def table(head:list[str], rows:list[tuple], name:str)->str: # cells are HTML
    "Return an HTML table with a class."
    cells = ''.join(f'<th scope="col">{text}</th>' for text in head)
    body = ''.join('<tr>' + ''.join(f'<td>{cell}</td>' for cell in row) + '</tr>\n' for row in rows)
    return raw(f'<table class="{name}"><thead><tr>{cells}</tr></thead>\n<tbody>\n{body}</tbody></table>')


def _as_code(text:str)->str: return f'<code>{html.escape(text, quote=False)}</code>' if text else ''


def parameter_table(of)->str: # '' where nothing is known of them
    "Return the table of a name's parameters: type, default, meaning."
    said = _comments(of)
    rows = []
    for param in parameters(of):
        stars = {param.VAR_POSITIONAL: '*', param.VAR_KEYWORD: '**'}.get(param.kind, '')
        rows.append((_as_code(stars + param.name), _as_code(type_name(param.annotation)),
                     _as_code(default_text(param.default)), inline(said.get(param.name, ''))))
    if 'return' in said:
        kind = '' if inspect.isclass(of) else type_name(inspect.signature(of).return_annotation)
        rows.append(('<em>returns</em>', _as_code(kind), '', inline(said['return'])))
    if not any(kind or meaning for _, kind, _, meaning in rows): return ''
    return table(['parameter', 'type', 'default', 'meaning'], rows, 'parameters')


def _docstring(of)->str:
    own = vars(of).get('__doc__') if inspect.isclass(of) else of.__doc__
    return inspect.cleandoc(own) if own else ''


def _called(function)->str: # '(a:int, b=2)', without self
    params = inspect.signature(function).parameters.values()
    return '(' + ', '.join(_written(param) for param in params if param.name not in ('self', 'cls')) + ')'


def method_table(of, name:str)->str: # '' where a class has none with a docstring
    "Return the table of a class's own methods and properties."
    rows = []
    for method, member in vars(of).items():
        function = getattr(member, '__func__', getattr(member, 'fget', member))
        if method.startswith('_') or not inspect.isfunction(function) or not function.__doc__: continue
        called = '' if isinstance(member, property) else _called(function)
        place = f'{name}.{method}'.lower()
        shown = f'<code id="{place}">.{method}{html.escape(called, quote=False)}</code>'
        rows.append((shown, inline(inspect.cleandoc(function.__doc__).split('\n\n')[0])))
    return table(['method', 'meaning'], rows, 'methods') if rows else ''


def describe(of, name:str, source:str='')->str:
    "Return the Markdown that shows a function or class: heading, signature, docstring, parameters, methods."
    parts = [f'---\n\n{source}'.strip(), f'### {name}', code(signature(of, name))]
    if inspect.isclass(of):
        bases = [base.__name__ for base in of.__bases__ if base is not object]
        if bases: parts.append('Bases: ' + ', '.join(f'`{base}`' for base in bases))
    parts += [prose(_docstring(of)), parameter_table(of)]
    if inspect.isclass(of): parts.append(method_table(of, name))
    return '\n\n'.join(part for part in parts if part)


def named(module, name:str):
    "Return what a dotted name means in a module."
    for part in name.split('.'): module = getattr(module, part)
    return module


def show_names(page:Path, module:str)->None:
    "Put `describe` in place of what nbdev shows of each name on a notebook's page."
    nb = nbformat.read(page, 4)
    home = None
    for cell in nb.cells:
        found = SHOWN.search(cell.source)
        if cell.cell_type != 'code' or not found or not cell.get('outputs'): continue
        home = home or import_module(module)
        data = cell.outputs[0].data
        source = re.search(r'\[source\]\([^)]*\)\{[^}]*\}', ''.join(data['text/markdown']))
        data['text/markdown'] = describe(named(home, found[1]), found[1], source[0] if source else '')
    nbformat.write(nb, page)


# commands

def sessions(notebooks)->list[tuple]: # (command line, what it prints with it)
    "Return the command lines that notebooks show, with what they print, each once."
    found = {}
    for path in notebooks:
        for cell in nbformat.read(path, 4).cells:
            for output in cell.get('outputs', []):
                text = output.get('text', '')
                if match := SESSION.match(text): found.setdefault(match[1], text.rstrip())
    return list(found.items())


def _commands(group, path:str): # of (path, command): parents first
    for name, command in group.commands.items():
        yield f'{path} {name}', command
        yield from _commands(command, f'{path} {name}') if hasattr(command, 'commands') else ()


def _parameter_row(param, kinds:dict)->tuple:
    names = [*param.opts, *param.secondary_opts]
    option = param.opts[0].startswith('-')
    shown = ', '.join(_as_code(name) for name in names) if option else _as_code(param.name.upper())
    kind = '' if getattr(param, 'is_flag', False) else kinds.get(param.name, '')
    default = param.default
    if param.required: default = '<em>required</em>'
    elif default in (None, False, '', ()): default = ''
    elif isinstance(default, (list, tuple)): default = _as_code(' '.join(map(str, default)))
    else: default = _as_code(str(default))
    return shown, _as_code(kind), default, inline(param.help or '')


def _usage(path:str, command)->str:
    arguments = [p for p in command.params if not p.opts[0].startswith('-')]
    words = [p.name.upper() + (' …' if p.nargs == -1 else '') for p in arguments]
    words = [word if p.required else f'[{word}]' for word, p in zip(words, arguments)]
    options = ['[OPTIONS]'] if len(arguments) < len(command.params) else []
    subcommand = ['COMMAND'] if hasattr(command, 'commands') else []
    return ' '.join([path, *options, *words, *subcommand])


def command_section(path:str, command, shown:list[str])->str:
    "Return a command's section: usage, what it does, options, example, sample sessions."
    text, _, example = (command.help or '').partition('Example: ')
    hints = typing.get_type_hints(command.callback) if command.callback else {}
    kinds = {name: type_name(kind).replace(' | None', '') for name, kind in hints.items()}
    rows = [_parameter_row(param, kinds) for param in command.params if param.name != 'help']
    parts = [f'## {path}', prose(' '.join(text.split())), code(_usage(path, command), 'text')]
    if rows: parts.append(table(['option', 'type', 'default', 'meaning'], rows, 'parameters'))
    if example.strip(): parts += ['For example:', code(' '.join(example.split()), 'sh')]
    for text in shown: parts.append(code(text, 'text'))
    return '\n\n'.join(parts)


def command_page(app, notebooks)->str: # of typer; paths
    "Return the page of all commands, made from the command line itself."
    import typer.main
    commands = list(_commands(typer.main.get_command(app), 'qvision'))
    paths = sorted((path for path, _ in commands), key=len, reverse=True)
    shown = {}
    for line, text in sessions(notebooks):
        path = next((path for path in paths if f'{line} '.startswith(f'{path} ')), None)
        if path and '--help' not in line: shown.setdefault(path, []).append(text)
    rows = [(f'<a href="#{path.replace(" ", "-")}"><code>{path}</code></a>',
             inline(' '.join((command.help or '').partition('Example: ')[0].split()))) for path, command in commands]
    head = ('---\ntitle: Commands and options\n'
            'description: Every command of `qvision`, its options, and what it prints.\n---\n\n'
            'Each command has `--help`. Errors are one line with a hint; `--debug` shows where they come from. '
            'The exit status is 0 where all is done, 1 after an error or where something was left out, '
            '2 for wrong options, 130 after Ctrl-C.')
    sections = [command_section(path, command, shown.get(path, [])[:3]) for path, command in commands]
    return '\n\n'.join([head, table(['command', 'what it does'], rows, 'commands'), *sections]) + '\n'
