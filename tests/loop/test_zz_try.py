import time,json
from pathlib import Path
import pyarrow.parquet as pq
def test_x(finished_run, run_whole, tiny_recipe, tmp_path):
    t=time.time(); run_whole(tiny_recipe(finished_run)); print("re", time.time()-t)
    for m in ("cream", "srlm","oracle"):
        t=time.time(); r=run_whole(tiny_recipe(tmp_path/m, f"method={m}", "method.pairing.truncated=keep")); print(m, time.time()-t)
        s = json.loads((r/"summary.json").read_text())
        print([m["overall"]["accuracy"] for m in s["models"]], [(i["consistency"]["rate"], i["consistency"]["low"],i["pair_accuracy"]["counts"], i["tally"]["parts"]["paired"], i["distinct"], i["truncated"]) for i in s["iterations"]])
        print(s["seconds"])
    print(pq.read_table(r/"iteration-1/sample/part-00000.parquet")["text"].to_pylist())
