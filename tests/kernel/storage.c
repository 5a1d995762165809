/* Disks and what lies on them: the disks of the machine by kind, erofs under dm-verity with and
 * without a flipped byte, dm-crypt, overlay, and the daemon's way to write its log (io_uring,
 * direct, with a linked flush). */
#define _GNU_SOURCE
#include "guest.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/dm-ioctl.h>
#include <linux/io_uring.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

/* The disks as tests/kernel/boot attaches them. */
#define ROOT_DISK "/dev/vda"
#define HASH_DISK "/dev/vdb"
#define FLIPPED_DISK "/dev/vdc"
#define REPORT_DISK "/dev/vdd"
#define LOG_DISK "/dev/nvme0n1"

struct request {
    struct dm_ioctl head;
    struct dm_target_spec target;
    char arguments[1024];
};

static void prepare(struct request *request, const char *name)
{
    memset(request, 0, sizeof *request);
    request->head.version[0] = DM_VERSION_MAJOR;
    request->head.data_size = sizeof *request;
    request->head.data_start = offsetof(struct request, target);
    snprintf(request->head.name, sizeof request->head.name, "%s", name);
}

/* Makes the mapped device NAME of one target and its node /dev/NAME. */
static bool map_device(const char *name, const char *type, uint64_t sectors, bool read_only,
                       const char *arguments)
{
    struct request request;
    char path[64];
    int control = open("/dev/mapper/control", O_RDWR | O_CLOEXEC);
    if (control < 0)
        return false;
    prepare(&request, name);
    if (ioctl(control, DM_DEV_CREATE, &request) < 0)
        return false;
    dev_t device = request.head.dev;
    prepare(&request, name);
    request.head.flags = read_only ? DM_READONLY_FLAG : 0;
    request.head.target_count = 1;
    request.target.length = sectors;
    snprintf(request.target.target_type, sizeof request.target.target_type, "%s", type);
    snprintf(request.arguments, sizeof request.arguments, "%s", arguments);
    request.target.next = sizeof request.target + sizeof request.arguments;
    if (ioctl(control, DM_TABLE_LOAD, &request) < 0)
        return false;
    prepare(&request, name);
    if (ioctl(control, DM_DEV_SUSPEND, &request) < 0)
        return false;
    close(control);
    snprintf(path, sizeof path, "/dev/%s", name);
    return mknod(path, S_IFBLK | 0600, makedev(major(device), minor(device))) == 0;
}

/* The verity table of DISK by the numbers that the host put into /verity: blocks, salt, hash. */
static bool map_verity(const char *name, const char *disk)
{
    unsigned long blocks;
    char salt[129], hash[129], arguments[512];
    if (sscanf(text_of("/verity"), "%lu %128s %128s", &blocks, salt, hash) != 3)
        return false;
    snprintf(arguments, sizeof arguments, "1 %s %s 4096 4096 %lu 1 sha256 %s %s", disk, HASH_DISK,
             blocks, hash, salt);
    return map_device(name, "verity", blocks * 8, true, arguments);
}

/* Reads all of PATH: its length, or -1 with errno where a read fails. */
static long read_all(const char *path)
{
    static char buffer[65536];
    long total = 0;
    ssize_t got;
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return -1;
    while ((got = read(file, buffer, sizeof buffer)) > 0)
        total += got;
    int error = errno;
    close(file);
    errno = error;
    return got < 0 ? -1 : total;
}

static void check_verity(void)
{
    bool mapped = map_verity("root", ROOT_DISK);
    check(mapped, "verity", "maps the root: %s", mapped ? "yes" : strerror(errno));
    mkdir("/root", 0755);
    bool mounted = mount("/dev/root", "/root", "erofs", MS_RDONLY, NULL) == 0;
    check(mounted, "erofs", "mounts under verity: %s", mounted ? "yes" : strerror(errno));
    check(strcmp(text_of("/root/hello"), "basalt") == 0, "erofs file", "%s",
          text_of("/root/hello"));
    long length = read_all("/root/big");
    check(length == 1 << 20, "erofs large file", "%ld bytes", length);

    bool flipped = map_verity("flipped", FLIPPED_DISK);
    length = read_all("/dev/flipped");
    check(flipped && length < 0 && errno == EIO, "verity refuses a flipped byte",
          "reading all of it gives %ld, %s", length, strerror(errno));
    struct stat status;
    check(stat("/sys/module/dm_verity/parameters/require_signatures", &status) == 0,
          "verity signatures", "can be required");

    mkdir("/tmp/up", 0755);
    mkdir("/tmp/work", 0755);
    mkdir("/merged", 0755);
    bool over = mount("overlay", "/merged", "overlay", 0,
                      "lowerdir=/root,upperdir=/tmp/up,workdir=/tmp/work") == 0;
    int file = open("/merged/new", O_CREAT | O_WRONLY, 0600);
    check(over && file >= 0 && write(file, "x", 1) == 1, "overlay", "is written over the root");
    close(file);
}

static void check_crypt(const char *disk)
{
    char key[129], plain[4096] __attribute__((aligned(4096)));
    memset(key, 'a', 128);
    key[128] = 0;
    char arguments[256];
    snprintf(arguments, sizeof arguments, "aes-xts-plain64 %s 0 %s 0", key, disk);
    bool mapped = map_device("crypt", "crypt", 2048, false, arguments);
    memset(plain, 'p', sizeof plain);
    int file = open("/dev/crypt", O_RDWR | O_CLOEXEC);
    bool written = file >= 0 && pwrite(file, plain, sizeof plain, 0) == sizeof plain &&
                   fsync(file) == 0;
    close(file);
    int raw = open(disk, O_RDONLY | O_DIRECT | O_CLOEXEC);
    bool secret = raw >= 0 && pread(raw, plain, sizeof plain, 0) == sizeof plain &&
                  memchr(plain, 'p', 64) != plain;
    close(raw);
    check(mapped && written && secret, "dm-crypt",
          "AES-XTS on an AHCI disk: mapped %d, written %d, not in the clear %d", mapped, written,
          secret);
}

struct ring {
    int file;
    struct io_uring_params parameters;
    char *queue, *completions;
    struct io_uring_sqe *entries;
};

static bool open_ring(struct ring *ring)
{
    memset(ring, 0, sizeof *ring);
    ring->parameters.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN;
    ring->file = (int)syscall(__NR_io_uring_setup, 8, &ring->parameters);
    if (ring->file < 0)
        return false;
    const struct io_uring_params *p = &ring->parameters;
    ring->queue = mmap(NULL, p->sq_off.array + p->sq_entries * sizeof(uint32_t),
                       PROT_READ | PROT_WRITE, MAP_SHARED, ring->file, IORING_OFF_SQ_RING);
    ring->completions = mmap(NULL, p->cq_off.cqes + p->cq_entries * sizeof(struct io_uring_cqe),
                             PROT_READ | PROT_WRITE, MAP_SHARED, ring->file, IORING_OFF_CQ_RING);
    ring->entries = mmap(NULL, p->sq_entries * sizeof *ring->entries, PROT_READ | PROT_WRITE,
                         MAP_SHARED, ring->file, IORING_OFF_SQES);
    return ring->queue != MAP_FAILED && ring->completions != MAP_FAILED &&
           ring->entries != MAP_FAILED;
}

/* One direct write linked to a flush of the disk, as the daemon's log does it. */
static void check_io_uring(void)
{
    struct ring ring;
    if (!open_ring(&ring)) {
        check(false, "io_uring", "set-up: %s", strerror(errno));
        return;
    }
    char *block = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(block, 'w', 4096);
    int disk = open(LOG_DISK, O_RDWR | O_DIRECT | O_CLOEXEC);
    memset(ring.entries, 0, 2 * sizeof *ring.entries);
    ring.entries[0].opcode = IORING_OP_WRITE;
    ring.entries[0].flags = IOSQE_IO_LINK;
    ring.entries[0].fd = disk;
    ring.entries[0].addr = (uint64_t)(uintptr_t)block;
    ring.entries[0].len = 4096;
    ring.entries[1].opcode = IORING_OP_FSYNC;
    ring.entries[1].fd = disk;
    ring.entries[1].fsync_flags = IORING_FSYNC_DATASYNC;
    const struct io_uring_params *p = &ring.parameters;
    uint32_t *array = (uint32_t *)(ring.queue + p->sq_off.array);
    array[0] = 0;
    array[1] = 1;
    __atomic_store_n((uint32_t *)(ring.queue + p->sq_off.tail), 2, __ATOMIC_RELEASE);
    long entered = syscall(__NR_io_uring_enter, ring.file, 2, 2, IORING_ENTER_GETEVENTS, NULL, 0);
    const struct io_uring_cqe *done =
        (const struct io_uring_cqe *)(ring.completions + p->cq_off.cqes);
    uint32_t tail = __atomic_load_n((uint32_t *)(ring.completions + p->cq_off.tail),
                                    __ATOMIC_ACQUIRE);
    memset(block, 0, 4096);
    bool there = pread(disk, block, 4096, 0) == 4096 && block[4095] == 'w';
    check(entered == 2 && tail == 2 && done[0].res == 4096 && done[1].res == 0 && there,
          "io_uring", "write and flush on NVMe: entered %ld, done %u, %d, %d, there %d", entered,
          tail, tail > 0 ? done[0].res : -1, tail > 1 ? done[1].res : -1, there);
    close(disk);
}

/* Hands the running configuration to the host: its bytes onto a disk, their number as a line. */
static void report_configuration(void)
{
    static char bytes[1 << 20];
    int from = open("/proc/config.gz", O_RDONLY | O_CLOEXEC);
    ssize_t length = 0, got;
    while (from >= 0 && (got = read(from, bytes + length, sizeof bytes - (size_t)length)) > 0)
        length += got;
    close(from);
    int to = open(REPORT_DISK, O_WRONLY | O_CLOEXEC);
    bool written = to >= 0 && length > 0 && pwrite(to, bytes, (size_t)length, 0) == length &&
                   fsync(to) == 0;
    close(to);
    check(written, "configuration", "written to the report disk");
    printf("basalt-kernel-test: config.gz has %zd bytes\n", length);
}

/* Which of the two SCSI-like disks has this maker: AHCI's says ATA, virtio's says QEMU. */
static const char *disk_of(const char *maker)
{
    const char *const disks[] = {"/dev/sda", "/dev/sdb"};
    for (size_t i = 0; i < sizeof disks / sizeof *disks; i++) {
        char path[64];
        snprintf(path, sizeof path, "/sys/block/%s/device/vendor", disks[i] + 5);
        if (has_word(text_of(path), maker))
            return disks[i];
    }
    return NULL;
}

void check_storage(void)
{
    const char *const kinds[] = {"ext4", "xfs", "vfat", "erofs", "overlay"};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        check(has_word(text_of("/proc/filesystems"), kinds[i]), "file system", "%s", kinds[i]);
    const char *serial = text_of("/sys/class/nvme/nvme0/serial");
    check(strncmp(serial, "basalt-log-0", 12) == 0, "nvme", "serial number %s", serial);
    const char *ahci = disk_of("ATA"), *scsi = disk_of("QEMU");
    check(ahci, "ahci", "%s", ahci ? ahci : "no such disk");
    check(scsi, "virtio scsi", "%s", scsi ? scsi : "no such disk");
    check_verity();
    check_crypt(ahci ? ahci : "/dev/null");
    check_io_uring();
    report_configuration();
}
