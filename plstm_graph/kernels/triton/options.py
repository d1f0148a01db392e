"""Options that all launches share."""

import torch

#: One stage: loads that the compiler moves ahead of a loop would miss what the loop stores. All the registers
#: that a thread can have: the assembler would rather spill some, to make room for more programs.
LAUNCH_OPTIONS: dict[str, int] = {"num_stages": 1}
if torch.version.hip is None:
    LAUNCH_OPTIONS["maxnreg"] = 255
