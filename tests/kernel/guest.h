/* What the first program of the test's machine shares between its files: how a check reports,
 * and how small files are read and written. */
#pragma once
#include <stdbool.h>
#include <stddef.h>

/* Prints one line for the host: "ok NAME" or "FAILED NAME: ...", and counts it. */
void check(bool good, const char *name, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* The text of a small file, without the last newline; empty where it cannot be read. Valid until
 * the second next call. */
const char *text_of(const char *path);
bool write_text(const char *path, const char *text);
/* Whether WORD stands in TEXT between spaces, tabs or line ends. */
bool has_word(const char *text, const char *word);

void check_storage(void);
void check_calls(void);
