from statistics import mean

import ldct_denoise

models = ["lir-ct-small", "bilateral"]
evaluation = ldct_denoise.compare("patients", models)
for model in ["input", *models]:
    slices = evaluation.values(model, "abdomen", "body", "rmse")
    print(f"{model}: RMSE {mean(slices.values()):.1f} HU, {len(slices)} slices")
