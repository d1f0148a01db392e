"""Options that all launches share."""

import torch

#: Registers that a thread can have.
MOST_REGISTERS = 255

#: One stage: loads that the compiler moves ahead of a loop would miss what the loop stores. All the
#: registers: the assembler would rather spill some, to make room for more programs.
LAUNCH_OPTIONS: dict[str, int] = {"num_stages": 1}
if torch.version.hip is None:
    LAUNCH_OPTIONS["maxnreg"] = MOST_REGISTERS
