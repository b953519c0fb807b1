/* SPDX-License-Identifier: GPL-2.0 */
#include <linux/linkage.h>
#include <asm/nospec-branch.h>

/*
 * void orthros_leave(u64 root, u64 entry, u64 slot): the last instructions of a
 * CPU in this kernel. On entry interrupts are off. Under the new root this text
 * is still mapped, this kernel's stacks are not: registers only. The parking
 * code wants the slot in RDI.
 */
	.text
SYM_FUNC_START(orthros_leave)
	mov	%rdi, %cr3
	mov	%rdx, %rdi
	ANNOTATE_RETPOLINE_SAFE
	jmp	*%rsi
SYM_FUNC_END(orthros_leave)
