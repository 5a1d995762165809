# The units of the appliance; included by the Makefile.
.PHONY: units
units: ## Check the systemd units: syntax, names, how far they are hardened
	@command -v systemd-analyze >/dev/null || { missing=(systemd); \
	$(call install,$${missing[@]+"$${missing[@]}"}); }
	@systemd/check
