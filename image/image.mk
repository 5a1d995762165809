# Targets of the bootable image; included by the Makefile.
.PHONY: image setup-image test-image test-image-short

# own: our kernel, which `make kernel` builds where it is not there. debian: Debian's packaged one,
# at once.
KERNEL ?= own

image: setup setup-image $(if $(filter own,$(KERNEL)),kernel) ## Build the bootable image build/basalt_VERSION.raw (KERNEL=own|debian)
	KERNEL=$(KERNEL) CARGO="$(CARGO)" image/build

setup-image: ## Install what building and booting the image needs (Debian 12 or 13)
	@image/setup

test-image: setup-image setup-test ## Boot the built image in QEMU and hold it against what is promised
	tests/image/run

test-image-short: setup-image ## The same, but only what each change is held against
	tests/image/run --short
