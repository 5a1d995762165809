# Targets of the playbooks; included by the Makefile.
.PHONY: provisioning-check provisioning-test

provisioning-check: ## Lint the playbooks (installs ansible-core and ansible-lint where they are missing)
	@provisioning/check

provisioning-test: ## Flash loop devices with the playbook, as root, and hold its refusals
	@provisioning/test
