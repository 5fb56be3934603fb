# --8<-- [start:plan]
ldct-denoise train --dicom-root patients --output runs/first --dry-run \
    --set data.test_patients=[L003] --set training.iterations=400
# --8<-- [end:plan]
# --8<-- [start:train]
ldct-denoise train --dicom-root patients --output runs/first \
    --set data.test_patients=[L003] --set training.iterations=400 --set training.validate_every=100
# --8<-- [end:train]
# --8<-- [start:apply]
ldct-denoise apply "patients/L003/synthetic-0/2.000000-Low Dose Images-00003" \
    --model runs/first --output restored
ldct-denoise evaluate restored --reference "patients/L003/synthetic-0/1.000000-Full Dose Images-00003" \
    --input "patients/L003/synthetic-0/2.000000-Low Dose Images-00003" --output measured
# --8<-- [end:apply]
