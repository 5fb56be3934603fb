from statistics import mean

import ldct_denoise

evaluation = ldct_denoise.compare("patients", ["lir-ct-small", "bilateral"])
for model in evaluation.models:
    slices = evaluation.values(model, "abdomen", "body", "rmse")
    print(f"{model}: RMSE {mean(slices.values()):.1f} HU, {len(slices)} slices")
