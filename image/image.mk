# Targets of the bootable image; included by the Makefile.
.PHONY: image keys addon image-check setup-image test-image test-image-short

# own: our kernel, which `make kernel` builds where it is not there. debian: Debian's packaged one,
# at once.
KERNEL ?= own
# debug: an image that lets its owner in by SSH.
PROFILE ?= release

image: setup setup-image $(if $(filter own,$(KERNEL)),kernel) ## Build the bootable image build/basalt_VERSION.raw (KERNEL=own|debian, PROFILE=debug)
	KERNEL=$(KERNEL) PROFILE=$(PROFILE) CARGO="$(CARGO)" image/build

keys: setup-image ## Make the keys that sign images and updates, once (KEYS=DIR, OWNER=NAME)
	@image/keys

addon: setup-image ## Sign a UKI add-on for Secure Boot (ADDON=FILE.addon.efi, KERNEL_ARGS="...")
	@image/addon "$(ADDON)" "$(KERNEL_ARGS)"

image-check: setup setup-image ## Build the commit at HEAD twice and compare all artefacts
	KERNEL=$(KERNEL) PROFILE=$(PROFILE) CARGO="$(CARGO)" image/check

setup-image: ## Install what building and booting the image needs (Debian 12 or 13)
	@image/setup

test-image: setup-image setup-test ## Boot the built image in QEMU and hold it against what is promised
	tests/image/run

test-image-short: setup-image ## The same, but only what each change is held against
	tests/image/run --short
