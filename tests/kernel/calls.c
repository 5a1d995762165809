/* System calls: those that must work (landlock, seccomp, huge pages, BPF) and the old ones that
 * must not be there. */
#define _GNU_SOURCE
#include "guest.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/filter.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* Runs TRIAL in a child, which cannot be freed of its own restrictions; true where it returned
 * true. */
static bool in_child(bool (*trial)(void))
{
    int status = -1;
    pid_t child = fork();
    if (child == 0)
        _exit(trial() ? 0 : 1);
    return child > 0 && waitpid(child, &status, 0) == child && status == 0;
}

/* A process that gives up reading files can read no more. */
static bool landlock_holds(void)
{
    struct landlock_ruleset_attr rules = {.handled_access_fs = LANDLOCK_ACCESS_FS_READ_FILE};
    int ruleset = (int)syscall(SYS_landlock_create_ruleset, &rules, sizeof rules, 0);
    if (ruleset < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
        syscall(SYS_landlock_restrict_self, ruleset, 0) != 0)
        return false;
    return open("/init", O_RDONLY) < 0 && errno == EACCES;
}

/* A filter that answers getppid with an error of its own. */
static bool seccomp_holds(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getppid, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | 77),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof code / sizeof *code, code};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
        syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) != 0)
        return false;
    return syscall(SYS_getppid) == -1 && errno == 77;
}

/* What systemd loads for IPAddressAllow=: a program of the control group kind. */
static bool bpf_holds(void)
{
    const struct bpf_insn code[] = {
        {.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0, .imm = 1},
        {.code = BPF_JMP | BPF_EXIT},
    };
    union bpf_attr attributes;
    memset(&attributes, 0, sizeof attributes);
    attributes.prog_type = BPF_PROG_TYPE_CGROUP_SKB;
    attributes.expected_attach_type = BPF_CGROUP_INET_INGRESS;
    attributes.insns = (uint64_t)(uintptr_t)code;
    attributes.insn_cnt = sizeof code / sizeof *code;
    attributes.license = (uint64_t)(uintptr_t) "GPL";
    int program = (int)syscall(SYS_bpf, BPF_PROG_LOAD, &attributes, sizeof attributes);
    int group = open("/cgroup", O_RDONLY | O_DIRECTORY);
    memset(&attributes, 0, sizeof attributes);
    attributes.target_fd = (uint32_t)group;
    attributes.attach_bpf_fd = (uint32_t)program;
    attributes.attach_type = BPF_CGROUP_INET_INGRESS;
    return program >= 0 && group >= 0 &&
           syscall(SYS_bpf, BPF_PROG_ATTACH, &attributes, sizeof attributes) == 0;
}

static bool huge_page_holds(void)
{
    char *page = mmap(NULL, 2 << 20, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
    if (page == MAP_FAILED)
        return false;
    page[(2 << 20) - 1] = 1;
    return true;
}

/* A call that this kernel must not know. */
static void is_gone(const char *name, long number)
{
    errno = 0;
    long answer = syscall(number, 0, 0, 0, 0, 0, 0);
    check(answer == -1 && errno == ENOSYS, "not there", "%s: %s", name, strerror(errno));
}

void check_calls(void)
{
    long version = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
    check(version >= 4, "landlock", "version %ld", version);
    check(in_child(landlock_holds), "landlock", "refuses what a process gave up");
    check(in_child(seccomp_holds), "seccomp", "a filter answers");
    check(in_child(bpf_holds), "bpf", "a control group program attaches");
    check(in_child(huge_page_holds), "huge page", "mapped and written");
    is_gone("modify_ldt", SYS_modify_ldt);
    is_gone("shmget", SYS_shmget);
    is_gone("semget", SYS_semget);
    is_gone("kexec_load", SYS_kexec_load);
    is_gone("kexec_file_load", SYS_kexec_file_load);
    is_gone("init_module", SYS_init_module);
    is_gone("userfaultfd", SYS_userfaultfd);
    is_gone("io_setup", SYS_io_setup);
    is_gone("swapon", SYS_swapon);
    is_gone("iopl", SYS_iopl);
}
