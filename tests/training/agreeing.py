"""Five questions of two ranks, of which rank 1 alone raises a flag at the third.

    accelerate launch ... agreeing.py OUT

Each rank writes its answers to OUT.RANK: asked as on a CPU, as on a GPU, and as on a GPU where the
third answer is dropped.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from pipeline.training.processes import Agreement, make_accelerator

accelerator = make_accelerator("no")
rank = accelerator.process_index
found = {}
for name in ("cpu", "gpu", "dropped"):
    agreement, found[name] = Agreement(accelerator, late=name != "cpu"), []
    for question in range(1, 6):
        found[name].append(agreement.ask(15 * rank * (question == 3), rank))
        if name == "dropped" and question == 3:
            agreement.asked = None
Path(f"{sys.argv[1]}.{rank}").write_text(json.dumps(found))
