/* The first and only program of the machine that `make test-kernel` boots: asks the running
 * kernel what it can do, prints a line for each answer, and turns the machine off. The host
 * (tests/kernel/boot) reads the lines. Storage is in storage.c, system calls are in calls.c. */
#define _GNU_SOURCE
#include "guest.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static int good_count, failed_count;

void check(bool good, const char *name, const char *format, ...)
{
    char detail[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(detail, sizeof detail, format, arguments);
    va_end(arguments);
    for (char *at = detail; *at; at++)
        if (*at == '\n')
            *at = ' ';
    if (good)
        good_count++;
    else
        failed_count++;
    printf("%s %s: %s\n", good ? "ok" : "FAILED", name, detail);
}

const char *text_of(const char *path)
{
    static char texts[2][16384];
    static int turn;
    char *text = texts[turn ^= 1];
    int file = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t length = file < 0 ? 0 : read(file, text, sizeof texts[0] - 1);
    if (file >= 0)
        close(file);
    if (length < 0)
        length = 0;
    while (length > 0 && text[length - 1] == '\n')
        length--;
    text[length] = 0;
    return text;
}

bool write_text(const char *path, const char *text)
{
    int file = open(path, O_WRONLY | O_CLOEXEC);
    if (file < 0)
        return false;
    bool good = write(file, text, strlen(text)) == (ssize_t)strlen(text);
    close(file);
    return good;
}

bool has_word(const char *text, const char *word)
{
    size_t length = strlen(word);
    for (const char *at = text; (at = strstr(at, word)); at++)
        if ((at == text || strchr(" \t\n", at[-1])) && strchr(" \t\n", at[length]))
            return true;
    return false;
}

static void has_text(const char *name, const char *path, const char *wanted)
{
    const char *text = text_of(path);
    check(strstr(text, wanted) != NULL, name, "%.200s", text);
}

static void exists(const char *name, const char *path)
{
    struct stat status;
    check(stat(path, &status) == 0, name, "%s", path);
}

static void absent(const char *name, const char *path)
{
    struct stat status;
    check(stat(path, &status) != 0 && errno == ENOENT, name, "%s is not there", path);
}

static void mount_or_fail(const char *type, const char *at)
{
    mkdir(at, 0755);
    check(mount(type, at, type, 0, NULL) == 0, type, "mounted at %s", at);
}

static void check_boot(void)
{
    printf("command line: %s\n", text_of("/proc/cmdline"));
    printf("version: %s\n", text_of("/proc/version"));
    has_text("release", "/proc/sys/kernel/osrelease", "-basalt");
    has_text("built as nobody, anywhere", "/proc/version", "(basalt@basalt)");
    exists("efi", "/sys/firmware/efi/runtime");
    exists("screen", "/sys/bus/platform/drivers/simple-framebuffer/simple-framebuffer.0");
    has_text("console on the screen", "/sys/class/vtconsole/vtcon1/name", "frame buffer device");
    has_text("serial and screen consoles", "/proc/consoles", "ttyS0");
    has_text("crash store", "/sys/module/pstore/parameters/backend", "efi_pstore");
    has_text("firmware settings", "/sys/firmware/qemu_fw_cfg/by_name/opt/basalt.test/raw", "seen");
    exists("smbios entries", "/sys/firmware/dmi/entries/1-0");
    absent("no loadable modules", "/proc/modules");
}

static void check_hardening(void)
{
    has_text("lockdown", "/sys/kernel/security/lockdown", "[integrity]");
    has_text("security modules", "/sys/kernel/security/lsm", "landlock");
    exists("yama", "/proc/sys/kernel/yama/ptrace_scope");
    absent("no /dev/mem", "/dev/mem");
    absent("no /dev/port", "/dev/port");
    absent("no /proc/kcore", "/proc/kcore");
    absent("no msr device", "/dev/cpu/0/msr");
    absent("no debugfs", "/sys/kernel/debug");
    absent("no binfmt_misc", "/proc/sys/fs/binfmt_misc");
    has_text("oops is panic", "/proc/sys/kernel/panic_on_oops", "1");
    has_text("panic reboots", "/proc/sys/kernel/panic", "10");
    has_text("keyboard sysrq is off", "/proc/sys/kernel/sysrq", "0");
    has_text("unprivileged bpf is off", "/proc/sys/kernel/unprivileged_bpf_disabled", "2");
    exists("user namespaces are root's", "/proc/sys/kernel/unprivileged_userns_clone");
    has_text("meltdown file", "/sys/devices/system/cpu/vulnerabilities/spectre_v1", "Mitigation");
}

static void check_performance(void)
{
    has_text("two nodes", "/sys/devices/system/node/online", "0-1");
    has_text("no tick", "/sys/devices/system/cpu/nohz_full", "1");
    has_text("transparent huge pages", "/sys/kernel/mm/transparent_hugepage/enabled",
             "[madvise]");
    for (int node = 0; node < 2; node++) {
        char path[128];
        snprintf(path, sizeof path,
                 "/sys/devices/system/node/node%d/hugepages/hugepages-2048kB/nr_hugepages", node);
        bool written = write_text(path, "8");
        check(written && atoi(text_of(path)) == 8, "huge pages", "node %d: %s", node,
              text_of(path));
    }
    exists("pressure", "/proc/pressure/memory");
    absent("no swap", "/proc/swaps");
    absent("no page balancing", "/proc/sys/kernel/numa_balancing");
}

static void check_cgroups(void)
{
    const char *const wanted[] = {"cpuset", "cpu", "io", "memory", "hugetlb", "pids"};
    const char *have = text_of("/cgroup/cgroup.controllers");
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++)
        check(has_word(have, wanted[i]), "control group", "%s of %s", wanted[i], have);
    bool made = write_text("/cgroup/cgroup.subtree_control", "+cpuset") &&
                mkdir("/cgroup/pinned", 0755) == 0 &&
                write_text("/cgroup/pinned/cpuset.cpus", "1") &&
                write_text("/cgroup/pinned/cpuset.cpus.partition", "isolated");
    const char *kind = text_of("/cgroup/pinned/cpuset.cpus.partition");
    check(made && strcmp(kind, "isolated") == 0, "isolated partition", "%s", kind);
    has_text("isolated core", "/cgroup/cpuset.cpus.isolated", "1");
}

static void check_devices(void)
{
    has_text("tpm", "/sys/class/tpm/tpm0/tpm_version_major", "2");
    exists("service processor", "/dev/ipmi0");
    exists("memory errors", "/sys/devices/system/edac");
    exists("clock", "/dev/rtc0");
    exists("hypervisor's console", "/dev/hvc0");
    exists("keyboard", "/sys/class/input/event0");
    has_text("entropy", "/sys/class/misc/hw_random/rng_available", "virtio_rng");
    bool virtio = false;
    for (int i = 0; i < 16 && !virtio; i++) {
        char path[64];
        struct stat status;
        snprintf(path, sizeof path, "/sys/bus/virtio/drivers/virtio_net/virtio%d", i);
        virtio = stat(path, &status) == 0;
    }
    check(virtio, "virtio network", "its driver holds a device");
    exists("intel network", "/sys/bus/pci/drivers/e1000e/0000:00:0a.0");
    const char *const cards[] = {"ixgbe", "i40e", "ice", "bnxt_en", "mlx5_core", "igb",
                                 "igc", "tg3", "r8169"};
    for (size_t i = 0; i < sizeof cards / sizeof *cards; i++) {
        char path[64];
        snprintf(path, sizeof path, "/sys/bus/pci/drivers/%s", cards[i]);
        exists("card driver", path);
    }
    exists("bond", "/sys/class/net/bonding_masters");
    exists("vlan", "/proc/net/vlan/config");
    /* The service processor's watchdog has the first place, QEMU's stands before the kernel's. */
    exists("service processor's watchdog", "/dev/watchdog");
    int hard = -1, soft = -1;
    for (int i = 0; i < 4; i++) {
        char path[64];
        snprintf(path, sizeof path, "/sys/class/watchdog/watchdog%d/identity", i);
        const char *name = text_of(path);
        if (strncmp(name, "i6300ESB", 8) == 0)
            hard = i;
        if (strcmp(name, "Software Watchdog") == 0)
            soft = i;
    }
    check(hard >= 0 && soft > hard, "watchdogs", "i6300esb is number %d, the kernel's own %d",
          hard, soft);
}

/* The boot before this one panicked on purpose: its last words must be here, in UEFI variables. */
static void check_last_words(void)
{
    char path[512] = "";
    DIR *folder = opendir("/sys/fs/pstore");
    struct dirent *entry;
    bool found = false;
    while (folder && (entry = readdir(folder))) {
        snprintf(path, sizeof path, "/sys/fs/pstore/%s", entry->d_name);
        found |= strstr(text_of(path), "sysrq triggered crash") != NULL;
    }
    if (folder)
        closedir(folder);
    check(found, "last words of the panic", "in /sys/fs/pstore, the last file is %s", path);
}

static void check_firewall(void)
{
    int status = -1;
    pid_t child = fork();
    if (child == 0) {
        execl("/usr/sbin/nft", "nft", "-f", "/rules.nft", NULL);
        _exit(127);
    }
    if (child > 0)
        waitpid(child, &status, 0);
    check(child > 0 && status == 0, "nftables", "default deny rules load (status %d)", status);
}

int main(void)
{
    mkdir("/dev", 0755);
    mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
    int console = open("/dev/ttyS0", O_RDWR);
    for (int i = 0; console >= 0 && i < 3; i++)
        dup2(console, i);
    setvbuf(stdout, NULL, _IOLBF, 0);
    printf("\nbasalt-kernel-test: begins\n");
    mount_or_fail("proc", "/proc");
    if (has_word(text_of("/proc/cmdline"), "basalt.test=crash")) {
        printf("basalt-kernel-test: panics on purpose\n");
        write_text("/proc/sysrq-trigger", "c");
        printf("FAILED: nothing happened\n");
    }
    mount_or_fail("sysfs", "/sys");
    mount_or_fail("securityfs", "/sys/kernel/security");
    mount_or_fail("efivarfs", "/sys/firmware/efi/efivars");
    mount_or_fail("cgroup2", "/cgroup");
    mount_or_fail("tmpfs", "/tmp");
    mount_or_fail("pstore", "/sys/fs/pstore");
    check_boot();
    check_hardening();
    check_performance();
    check_cgroups();
    check_devices();
    check_storage();
    check_calls();
    check_firewall();
    check_last_words();
    printf("basalt-kernel-test: %d ok, %d failed\n", good_count, failed_count);
    fflush(stdout);
    sync();
    sleep(1);
    reboot(RB_POWER_OFF);
    return 1;
}
