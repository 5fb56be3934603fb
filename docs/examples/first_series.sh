# --8<-- [start:phantom]
ldct-denoise phantom --output patients --patients 1 --slices 6 --size 256
# --8<-- [end:phantom]
# --8<-- [start:inspect]
ldct-denoise inspect patients
# --8<-- [end:inspect]
# --8<-- [start:apply]
ldct-denoise apply "patients/L001/synthetic-0/2.000000-Low Dose Images-00001" --output denoised --report
# --8<-- [end:apply]
# --8<-- [start:evaluate]
ldct-denoise evaluate denoised --reference "patients/L001/synthetic-0/1.000000-Full Dose Images-00001" \
    --input "patients/L001/synthetic-0/2.000000-Low Dose Images-00001" --output results
# --8<-- [end:evaluate]
