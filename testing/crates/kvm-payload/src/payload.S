/* A guest without a kernel. QEMU (-kernel) and Firecracker (kernel_image_path) start it by its PVH note, in 32-bit protected mode
 * without paging. It writes memory from 4 MiB on, over and over, checks each page before it writes it, and reports on the first
 * serial port how far it has got. The README says what each report means.
 *
 * Each page holds, at four places, the step in which it was last written and its own number. A step checks that the page has at
 * all four places what it was given one pass ago, and writes it anew. What memory must hold follows from one register, ebp.
 */
.intel_syntax noprefix

.equ FIRST, 1024                /* The first page that is written: 4 MiB. */
.equ COM1, 0x3f8
.equ MODULES, 12                /* Offsets into the start information of the PVH protocol: */
.equ MODULE_LIST, 16
.equ MEMORY_MAP, 40
.equ MEMORY_MAP_ENTRIES, 48
.equ STAY_32BIT, 1              /* Bits of the parameters' flags. */
.equ GIVE_UP, 2

.section .note.pvh, "a", @note
.align 4
    .long 4, 8, 18              /* Lengths of name and description; XEN_ELFNOTE_PHYS32_ENTRY. */
    .asciz "Xen"
    .quad entry

.section .text, "ax"
.code32
.globl entry
entry:
    cld
    mov esp, offset stack_top
    call find_memory_end
    call read_parameters
    mov ecx, [end_page]
    mov esi, ecx
    sub esi, FIRST              /* The number of pages. */
    mov eax, esi
    mov dl, 'P'
    call say32
    /* Memory is prepared as if a pass had been made, in the steps from zero on. */
    mov ebx, FIRST
    mov edi, FIRST * 4096
    xor eax, eax
1:  .irp at, 0x000, 0x554, 0xaa8, 0xff8
    mov [edi + \at], eax
    mov [edi + \at + 4], ebx
    .endr
    inc eax
    inc ebx
    add edi, 4096
    cmp ebx, ecx
    jb 1b
    mov ebp, esi                /* The step. */
    mov eax, ebp
    mov dl, 'R'
    call say32
    mov ebx, FIRST
    mov edi, FIRST * 4096
    test dword ptr [flags], STAY_32BIT
    jz enter_64bit

    .align 16
storm32:
    mov eax, ebp
    sub eax, esi
    .irp at, 0x000, 0x554, 0xaa8, 0xff8
    cmp [edi + \at], eax
    jne wrong32
    cmp [edi + \at + 4], ebx
    jne wrong32
    .endr
    .irp at, 0x000, 0x554, 0xaa8, 0xff8
    mov [edi + \at], ebp
    mov [edi + \at + 4], ebx
    .endr
    inc ebp
    inc ebx
    add edi, 4096
    cmp ebx, ecx
    jb 1f
    mov ebx, FIRST
    mov edi, FIRST * 4096
1:  test [report_mask], ebp
    jnz storm32
    mov eax, ebp
    mov dl, 'S'
    call say32
    test dword ptr [flags], GIVE_UP
    jz storm32
    /* There is nothing at this address. KVM cannot emulate what it cannot fetch, and gives the processor up. */
    mov eax, 0xf0000000
    jmp eax
wrong32:
    mov eax, edi
    mov dl, 'W'
    call say32
    mov eax, ebp
    mov dl, 'w'
    call say32
1:  jmp 1b

/* Sets end_page to the end of the memory that this code is in. */
find_memory_end:
    mov eax, [ebx + MEMORY_MAP]
    mov edx, [ebx + MEMORY_MAP_ENTRIES]
    test edx, edx
    jz 3f
1:  cmp dword ptr [eax + 16], 1 /* RAM. */
    jne 2f
    cmp dword ptr [eax + 4], 0
    jne 2f
    cmp dword ptr [eax], 0x100000
    ja 2f
    mov esi, [eax]
    add esi, [eax + 8]
    cmp esi, 0x100000
    jbe 2f
    shr esi, 12
    mov [end_page], esi
2:  add eax, 24
    dec edx
    jnz 1b
3:  ret

/* Takes over what the initramfs says, if it begins with "STRM". */
read_parameters:
    cmp dword ptr [ebx + MODULES], 0
    je 3f
    mov eax, [ebx + MODULE_LIST]
    mov eax, [eax]              /* The address of the first module. */
    cmp dword ptr [eax], 0x4d525453
    jne 3f
    mov edx, [eax + 12]
    mov [flags], edx
    mov edx, [eax + 8]
    test edx, edx
    jz 1f
    dec edx
    mov [report_mask], edx
1:  mov edx, [eax + 4]
    test edx, edx
    jz 3f
    add edx, FIRST
    cmp edx, [end_page]
    jae 3f
    mov [end_page], edx
3:  ret

enter_64bit:
    /* Page tables: what is below 4 GiB means itself, also for unprivileged code. */
    mov dword ptr [pml4], offset pdpt + 0x27
    mov eax, offset pd + 0x27
    xor edx, edx
1:  mov [pdpt + edx * 8], eax
    add eax, 4096
    inc edx
    cmp edx, 4
    jb 1b
    mov eax, 0xe7               /* Present, writable, user, accessed, dirty, 2 MiB. */
    xor edx, edx
2:  mov [pd + edx * 8], eax
    add eax, 0x200000
    inc edx
    cmp edx, 2048
    jb 2b
    mov eax, offset tss
    mov [tss_descriptor + 2], ax
    shr eax, 16
    mov [tss_descriptor + 4], al
    mov [tss_descriptor + 7], ah
    lgdt [gdt_pointer]
    mov eax, 0x20               /* Physical address extension. */
    mov cr4, eax
    mov eax, offset pml4
    mov cr3, eax
    push ecx
    mov ecx, 0xc0000080         /* EFER: long mode. */
    rdmsr
    or eax, 0x100
    wrmsr
    pop ecx
    mov eax, 0x80000031         /* Paging, and what was set before. */
    mov cr0, eax
    .byte 0xea                  /* A far jump to 0x18:in_64bit. */
    .long in_64bit
    .word 0x18
.code64
in_64bit:
    mov eax, 0x2b
    mov ds, eax
    mov es, eax
    mov eax, 0x38               /* The TSS allows the serial port's addresses: not every KVM looks at the I/O privilege level. */
    ltr ax
    push 0x2b
    push offset stack_top
    push 0x3002                 /* I/O privilege level 3, interrupts off. */
    push 0x33
    push offset unprivileged
    iretq
unprivileged:
    mov dl, 'U'
    mov eax, ebp
    call say64
    rdtsc
    shl rdx, 32
    or rax, rdx
    mov r8, rax                 /* When the last step was made. */
    xor r9, r9                  /* The longest time between two steps since the last report, */
    mov r10, r8                 /* and when it was over. */
    .align 16
storm64:
    rdtsc
    shl rdx, 32
    or rax, rdx
    mov rdx, rax
    sub rax, r8
    mov r8, rdx
    cmp rax, r9
    cmova r9, rax
    cmova r10, r8
    mov eax, ebp
    sub eax, esi
    .irp at, 0x000, 0x554, 0xaa8, 0xff8
    cmp [edi + \at], eax
    jne wrong64
    cmp [edi + \at + 4], ebx
    jne wrong64
    .endr
    .irp at, 0x000, 0x554, 0xaa8, 0xff8
    mov [edi + \at], ebp
    mov [edi + \at + 4], ebx
    .endr
    inc ebp
    inc ebx
    add edi, 4096
    cmp ebx, ecx
    jb 1f
    mov ebx, FIRST
    mov edi, FIRST * 4096
1:  mov eax, offset report_mask
    test [eax], ebp
    jnz storm64
    mov eax, ebp
    mov dl, 'S'
    call say64
    mov rax, r9
    shr rax, 10
    mov dl, 'G'
    call say64
    rdtsc
    shl rdx, 32
    or rax, rdx
    sub rax, r10
    shr rax, 10
    mov dl, 'A'
    call say64
    rdtsc                       /* The time that reporting takes does not count. */
    shl rdx, 32
    or rax, rdx
    mov r8, rax
    xor r9, r9
    jmp storm64
wrong64:
    mov eax, edi
    mov dl, 'W'
    call say64
    mov eax, ebp
    mov dl, 'w'
    call say64
1:  jmp 1b

/* Prints the letter in dl, the number in eax as eight hexadecimal digits, and the end of the line. */
.macro sayer name, frame, counter
\name:
    push \frame
    push \counter
    mov ecx, eax
    mov al, dl
    call \name\()_byte
    mov ah, 8
1:  rol ecx, 4
    mov al, cl
    and al, 15
    cmp al, 10
    jb 2f
    add al, 'a' - '0' - 10
2:  add al, '0'
    call \name\()_byte
    dec ah
    jnz 1b
    mov al, 10
    call \name\()_byte
    pop \counter
    pop \frame
    ret
\name\()_byte:
    push \frame
    push \counter
    mov ecx, eax
    mov edx, COM1 + 5
3:  in al, dx
    test al, 0x20
    jz 3b
    mov edx, COM1
    mov eax, ecx
    out dx, al
    pop \counter
    pop \frame
    ret
.endm

.code32
sayer say32, edx, ecx
.code64
sayer say64, rdx, rcx

.section .data, "aw"
.align 8
end_page: .long 8192            /* 32 MiB, if the VMM says nothing. */
report_mask: .long 0xfff
flags: .long 0
.align 8
gdt:
    .quad 0
    .quad 0x00cf9b000000ffff    /* 0x08: code, 32 bits. */
    .quad 0x00cf93000000ffff    /* 0x10: data. */
    .quad 0x00af9b000000ffff    /* 0x18: code, 64 bits. */
    .quad 0
    .quad 0x00cff3000000ffff    /* 0x28: data, unprivileged. */
    .quad 0x00affb000000ffff    /* 0x30: code, 64 bits, unprivileged. */
tss_descriptor:                 /* 0x38, of two entries; the address is filled in. */
    .word tss_end - tss - 1, 0
    .byte 0, 0x89, 0, 0
    .quad 0
tss:                            /* Every port up to 0x3ff is allowed. */
    .skip 102
    .word 104
    .skip 129
tss_end:
gdt_pointer:
    .word tss - gdt - 1
    .long gdt

.section .bss, "aw", @nobits
.align 4096
.skip 4096
stack_top:
pml4: .skip 4096
pdpt: .skip 4096
pd: .skip 16384
