# --8<-- [start:compare]
ldct-denoise compare --dicom-root patients --model lir-ct-small --model bilateral --model tv \
    --window full --window abdomen --output comparison
# --8<-- [end:compare]
