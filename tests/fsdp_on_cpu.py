"""Train a job in FSDP's way without a card, started by `accelerate launch` with one of the files of tools/launch.

accelerate shards on accelerators alone, and on CPUs trains as if it had not been asked to; everything behind that
decision, torch's FSDP among it, works there too. So it is told here that it may."""
import sys

from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType

decide = AcceleratorState.__init__


def sharded(self, *args, fsdp_plugin=None, **kwargs):
    "Decide as on a card."
    decide(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
    if fsdp_plugin is None: return # who only looks at the state
    assert self.distributed_type in (DistributedType.MULTI_CPU, DistributedType.FSDP)
    self.distributed_type = PartialState._shared_state['distributed_type'] = DistributedType.FSDP
    self.fsdp_plugin = fsdp_plugin
    if self.mixed_precision != 'no': fsdp_plugin.set_mixed_precision(self.mixed_precision)


if __name__ == '__main__':
    AcceleratorState.__init__ = sharded
    from qvision.training.phase import main
    main(sys.argv[1])
