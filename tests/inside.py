"""Torch's operations, those inside the operators of this package included."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from monai_surrogates.core.kernels import operators


class InsideOperators(TorchDispatchMode):
    """Calls ``see`` with each of torch's own operators, its arguments and the tensors that it made."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace == "monai_surrogates":
            with self:
                return operators.FUNCTIONS[function._opname](*args)
        made = function(*args, **(kwargs or {}))
        self.see(
            function, args, [x for x in (made if isinstance(made, (tuple, list)) else [made]) if torch.is_tensor(x)]
        )
        return made
