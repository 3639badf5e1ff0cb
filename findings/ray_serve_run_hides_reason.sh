#!/usr/bin/env bash
# serve.run does not say why a deployment failed to start (ray 2.60.0).
#
# A deployment's constructor raises, as one does that cannot open its model. Guess: `serve.run` raises an error with the
# constructor's, or says where it is. Seen: "Deploying application shop failed: Failed to update the deployments ['Model']."
# It has no cause, and the application's own message in `serve.status()` says the same. The reason, with its traceback, is
# only in the message of the deployment: `serve.status().applications[NAME].deployments[NAME].message`.
#
# Exits with 0 while that is so, with 1 once the behaviour changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check ray==2.60.0 "ray[serve]"
cat > "$folder/run.py" <<'PYTHON'
import logging
import sys

import ray
from ray import serve

print("version: ray", ray.__version__)
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=2**27)
logging.disable()
REASON = "the table has 5 rows, expected 7"


@serve.deployment(max_constructor_retry_count=1)
class Model:
    def __init__(self):
        raise ValueError(REASON)

    def __call__(self, request):
        return "ok"


told, cause = "nothing", None
try:
    serve.run(Model.bind(), name="shop")
except RuntimeError as error:
    told, cause = str(error), error.__cause__ or error.__context__
shop = serve.status().applications["shop"]
deployment = shop.deployments["Model"].message
ray.shutdown()
print("serve.run raises:", told)
print("its cause:", cause)
print("message of the application:", shop.message)
print("message of the deployment has the reason:", REASON in deployment)
hidden = told.startswith("Deploying application shop failed") and cause is None
if not (hidden and REASON not in told and REASON not in shop.message and REASON in deployment):
    sys.exit("the behaviour changed")
print("as described")
PYTHON
cd "$folder"
RAY_USAGE_STATS_ENABLED=0 "$folder/venv/bin/python" -W ignore run.py 2> "$folder/errors" \
  || { code=$?; tail -20 "$folder/errors"; exit $code; }
