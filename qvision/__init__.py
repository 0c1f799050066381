"""qvision: a compact image captioner, trained, measured and explained in notebooks."""
import sys
from importlib.util import find_spec

__version__ = "0.1.0"
__all__ = ['Captioner']
_FROM_CAPTIONER = ('Captioner', 'CaptionerConfig')
_AUTO = 'transformers.models.auto.configuration_auto'


def __getattr__(name:str):
    "Load `Captioner` when it is asked for: `import qvision` alone loads no torch."
    if name in _FROM_CAPTIONER:
        from qvision.model import captioner
        return getattr(captioner, name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def _announce(auto):
    "Tell transformers' auto classes where a captioner's configuration is; only opening one loads it."
    auto.CONFIG_MAPPING_NAMES.setdefault('qvision', 'CaptionerConfig')
    auto.CONFIG_MAPPING._modules['qvision'] = sys.modules[__name__]


class _Announcer:
    "Waits on sys.meta_path until transformers' auto classes are imported."
    def find_spec(self, name:str, path=None, target=None):
        if name != _AUTO: return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        run = spec.loader.exec_module
        def run_and_announce(module):
            run(module)
            _announce(module)
        spec.loader.exec_module = run_and_announce
        return spec


if _AUTO in sys.modules: _announce(sys.modules[_AUTO])
elif not any(type(finder).__name__ == '_Announcer' for finder in sys.meta_path): sys.meta_path.insert(0, _Announcer())
