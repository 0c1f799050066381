"""qvision: a compact image captioner, trained, measured and explained in notebooks."""
__version__ = "0.1.0"
__all__ = ['Captioner']


def __getattr__(name:str):
    "Load `Captioner` when it is asked for: `import qvision` alone loads no torch."
    if name == 'Captioner':
        from qvision.model.captioner import Captioner
        return Captioner
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
