"""Write the page of outputs: `python -m dmri_fm_workflows.outputs docs/outputs.md`."""

from dmri_fm_workflows.outputs.docs import outputs_page, write_page

if __name__ == "__main__":
    write_page(outputs_page(), "Write the page of outputs from maps.yaml.")
