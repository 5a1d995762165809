# The kernel: configured by fragments, built from Debian's source. kernel-config/README.md says
# how; included by the Makefile.
.PHONY: kernel kernel-check test-kernel setup-kernel setup-kernel-check setup-test-kernel

kernel: setup-kernel ## Build the kernel into build/kernel/current, if it is not there (JOBS=N)
	@kernel-config/build

kernel-check: setup-kernel-check ## Merge the kernel's fragments, check that every symbol survives
	@kernel-config/check

test-kernel: kernel setup-test-kernel ## Boot the built kernel in QEMU and ask it what it can do
	@tests/kernel/boot

# Configuring needs a compiler and the two generators; nothing is installed where nothing lacks.
define kernel_check_missing
missing=(); \
command -v cc >/dev/null && command -v make >/dev/null || missing+=(build-essential); \
command -v flex >/dev/null || missing+=(flex); \
command -v bison >/dev/null || missing+=(bison); \
command -v xz >/dev/null || missing+=(xz-utils); \
command -v curl >/dev/null || missing+=(curl ca-certificates); \
[ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || missing+=(debian-archive-keyring)
endef

setup-kernel-check:
	@$(kernel_check_missing); \
	$(call install,$${missing[@]+"$${missing[@]}"})

setup-kernel: ## Install what building the kernel needs
	@$(kernel_check_missing); \
	command -v bc >/dev/null || missing+=(bc); \
	command -v cpio >/dev/null || missing+=(cpio); \
	command -v zstd >/dev/null || missing+=(zstd); \
	command -v ccache >/dev/null || missing+=(ccache); \
	command -v flock >/dev/null || missing+=(util-linux); \
	[ -e /usr/include/libelf.h ] || missing+=(libelf-dev); \
	[ -e /usr/include/openssl/ssl.h ] || missing+=(libssl-dev); \
	$(call install,$${missing[@]+"$${missing[@]}"})

setup-test-kernel:
	@missing=(); \
	command -v qemu-system-x86_64 >/dev/null || missing+=(qemu-system-x86); \
	command -v cpio >/dev/null || missing+=(cpio); \
	command -v mkfs.erofs >/dev/null || missing+=(erofs-utils); \
	command -v veritysetup >/dev/null || missing+=(cryptsetup-bin); \
	[ -d /usr/share/OVMF ] || missing+=(ovmf); \
	command -v swtpm >/dev/null || missing+=(swtpm); \
	command -v nft >/dev/null || [ -x /usr/sbin/nft ] || missing+=(nftables); \
	$(call install,$${missing[@]+"$${missing[@]}"})
